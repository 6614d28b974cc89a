//! Files on a real file system: positioned reads, atomic writes, folders, the hub client against a local server.

#[cfg(feature = "cli")]
mod hub;
mod properties;

use std::fs;
use std::io::Write;
use std::path::Path;

use espalier::io::gguf::{GgufReader, GgufWriter, TensorSpec};
use espalier::io::{ByteSource, Existing, FileSource, Files, Folder, write_atomically, write_folder_atomically};
use espalier::{Error, Result};

#[test]
fn a_file_is_read_at_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    std::fs::write(&path, b"abcdef").unwrap();
    let source = FileSource::open(&path).unwrap();
    assert_eq!(source.len(), 6);
    assert_eq!(source.read_vec(1, 3).unwrap(), b"bcd");
    assert!(source.read_vec(1, 6).is_err());
    assert!(FileSource::open(folder.path()).is_err());
    assert!(FileSource::open(folder.path().join("y")).unwrap_err().to_string().starts_with("cannot open "));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn put(text: &str) -> impl FnOnce(&mut espalier::io::AtomicFile) -> Result<()> {
    move |out| out.write_all(text.as_bytes()).map_err(Error::io("write"))
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/x.txt");
    let failed: Result<()> = write_atomically(&path, |out| {
        put("half")(out)?;
        assert!(!path.exists());
        Err(Error::Cancelled)
    });
    assert!(matches!(failed, Err(Error::Cancelled)));
    assert_eq!(names(folder.path()), [""; 0], "folders made for it are gone as well");

    write_atomically(&path, put("first")).unwrap();
    let failed: Result<()> = write_atomically(&path, |out| put("second")(out).and(Err(Error::Cancelled)));
    assert!(failed.is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    write_atomically(&path, put("third")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "third");
    assert_eq!(names(path.parent().unwrap()), ["x.txt"]);

    let onto_a_folder = write_atomically(folder.path().join("a"), put("x")).unwrap_err().to_string();
    assert!(onto_a_folder.ends_with("it exists and is no file"), "{onto_a_folder}");
    assert!(write_atomically("..", put("x")).is_err());
}

#[test]
fn a_panic_while_writing_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let panicked = std::panic::catch_unwind(|| write_atomically(&path, |_| -> Result<()> { panic!("on purpose") }));
    assert!(panicked.is_err());
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_folder_appears_whole_or_not_at_all_and_replaces_only_what_it_may() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out/adapter");
    let fill = |text: &'static str| {
        move |folder: &Path| {
            fs::create_dir(folder.join("sub")).unwrap();
            fs::write(folder.join("sub/y"), text).unwrap();
            fs::write(folder.join("x"), text).map_err(Error::io("write x"))
        }
    };
    let failed: Result<()> = write_folder_atomically(&path, Existing::Refuse, |folder| {
        fill("half")(folder)?;
        Err(Error::Cancelled)
    });
    assert!(failed.is_err());
    assert_eq!(names(root.path()), [""; 0]);

    fs::create_dir_all(&path).unwrap();
    write_folder_atomically(&path, Existing::Refuse, fill("first")).unwrap();
    assert_eq!(fs::read_to_string(path.join("sub/y")).unwrap(), "first");
    let refused = write_folder_atomically(&path, Existing::Refuse, fill("second")).unwrap_err().to_string();
    assert!(refused.contains("is not empty"), "{refused}");

    let ours = |name: &str| ["x", "sub"].contains(&name);
    write_folder_atomically(&path, Existing::ReplaceIf(&ours), fill("second")).unwrap();
    assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "second");
    fs::write(path.join("notes"), "of the user").unwrap();
    let refused = write_folder_atomically(&path, Existing::ReplaceIf(&ours), fill("third")).unwrap_err().to_string();
    assert!(refused.contains("it holds notes"), "{refused}");
    assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "second");
    write_folder_atomically(&path, Existing::Replace, fill("third")).unwrap();
    assert_eq!(names(&path), ["sub", "x"]);
    assert_eq!(names(path.parent().unwrap()), ["adapter"]);
    assert!(write_folder_atomically(path.join("x"), Existing::Replace, fill("x")).is_err());
}

/// Runs the test `name` of this file, which is ignored otherwise, in a process that may write no file above 8 KiB.
#[cfg(unix)]
fn run_with_little_room(name: &str, folder: &Path) {
    // `ulimit -f` counts 512 bytes in some shells, 1024 in others; with the signal ignored, a write past it fails as on a
    // full disk.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact \"$1\" --ignored --nocapture";
    let status = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env("ESPALIER_TEST_FOLDER", folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&status.stderr));
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_one_clear_sentence_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), "before").unwrap();
    run_with_little_room("write_more_than_there_is_room_for", folder.path());
    assert_eq!(names(folder.path()), ["x"]);
    assert_eq!(fs::read_to_string(folder.path().join("x")).unwrap(), "before");
}

#[cfg(unix)]
#[test]
#[ignore = "run by a_full_disk_is_one_clear_sentence_and_leaves_nothing_behind"]
fn write_more_than_there_is_room_for() {
    let folder = std::path::PathBuf::from(std::env::var_os("ESPALIER_TEST_FOLDER").unwrap());
    for bytes in [100_000, 10_000_000] {
        let refused = write_atomically(folder.join("x"), |out| {
            out.write_all(&vec![1; bytes]).map_err(Error::io(format!("write {}", out.path().display())))
        });
        let sentence = refused.unwrap_err().to_string();
        let start = format!("cannot write {}: there is no room for it on the disk (", folder.join("x").display());
        assert!(sentence.starts_with(&start) && sentence.ends_with("nothing of it was left behind"), "{sentence}");
    }
    let refused = write_folder_atomically(folder.join("new"), Existing::Refuse, |new| {
        write_atomically(new.join("small"), put("fits"))?;
        write_atomically(new.join("large"), put(&"x".repeat(100_000)))
    });
    assert!(refused.unwrap_err().to_string().contains("no room"));
}

#[test]
fn a_folder_lists_its_files_and_opens_only_those() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(folder.path().join("model.pth"), "x").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/secret"), "x").unwrap();
    let files = Folder::open(folder.path()).unwrap();
    assert_eq!(files.list(), ["config.json", "model.pth"]);
    assert_eq!(files.read_text("config.json", 100).unwrap(), "{}");
    for name in ["sub/secret", "../x", "sub", "tokenizer.json", "model.pth"] {
        assert!(files.open(name).is_err(), "{name}");
    }
    assert!(Folder::open(folder.path().join("none")).unwrap_err().to_string().starts_with("cannot list the folder"));
}

/// Made by Python's `gguf`, by `fuzz/seeds/make.py`.
#[test]
fn gguf_files_by_python_are_read_and_written_again_byte_for_byte() {
    for name in ["small", "blocks32", "blocks256"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/seeds/gguf/{name}.gguf"));
        let reader = GgufReader::open(Box::new(FileSource::open(&path).unwrap())).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.str("general.architecture").unwrap(), "llama");
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "\u{120}b", "c"]);
        assert_eq!(metadata.f32s("tokenizer.ggml.scores").unwrap(), [0.5, -1.0, 0.0]);
        assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap(), [1, 1, 3]);
        assert_eq!(metadata.u32("x.u64").unwrap(), 7);
        let mut row = [0.0; 4];
        reader.read_f32_rows("a.weight", 1..2, &mut row).unwrap();
        assert_eq!(row, [4.0, 5.0, 6.0, 7.0]);

        let specs: Vec<TensorSpec> = reader
            .tensors()
            .iter()
            .map(|tensor| TensorSpec {
                name: tensor.name.clone(),
                ggml_type: tensor.ggml_type,
                shape: tensor.shape.clone(),
            })
            .collect();
        let mut writer = GgufWriter::new(name, Vec::new(), metadata, &specs).unwrap();
        for tensor in reader.tensors() {
            writer.append(&tensor.name, &reader.read_bytes(&tensor.name, 0..tensor.bytes).unwrap()).unwrap();
        }
        assert!(writer.finish().unwrap() == fs::read(&path).unwrap(), "{name}");
    }
}
