//! Running other programs: shown before they start, their output passed on, a failure told in one sentence.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root").to_path_buf()
}

/// A program that runs in the root of the repository.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    // Mesa's layer that asks a display server which GPU to prefer complains where there is none.
    command.env("NODEVICE_SELECT", "1");
    command
}

/// The cargo that started this program.
pub fn cargo() -> Command {
    let mut command = program(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let mut words = vec![name.to_string_lossy().into_owned()];
    for argument in command.get_args() {
        let word = argument.to_string_lossy();
        words.push(if word.contains(' ') { format!("{word:?}") } else { word.into_owned() });
    }
    words.join(" ")
}

/// Runs a command whose output a person sees; errs unless it ends well.
pub fn run(command: &mut Command) -> Result<()> {
    say(format_args!("$ {}", shown(command)));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command whose standard output is wanted and whose errors a person sees; errs unless it ends well.
pub fn shown_output(command: &mut Command) -> Result<String> {
    say(format_args!("$ {}", shown(command)));
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and hands over what it writes to its standard output, nothing where it fails or is missing.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, passes its standard output on line by line and shows each line to `see`. True where it ended well.
pub fn run_and_see(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    say(format_args!("$ {}", shown(command)));
    let what = shown(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {what}"))?;
    let mut lines = BufReader::new(child.stdout.take().expect("standard output was piped"));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).with_context(|| format!("cannot read the output of {what}"))? > 0 {
        let _ = std::io::stdout().write_all(&line);
        see(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(child.wait().with_context(|| format!("cannot wait for {what}"))?.success())
}

/// A line of our own, set apart from those of the programs we run. On standard error, like cargo's own progress, so that the two keep their order.
pub fn say(line: impl std::fmt::Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1;32m{line}\x1b[0m");
    } else {
        eprintln!("{line}");
    }
}

/// The first program of this name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let suffix = if name.contains('.') { "" } else { std::env::consts::EXE_SUFFIX };
    let file = format!("{name}{suffix}");
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(&file)).find(|path| path.is_file())
}
