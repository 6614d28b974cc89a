//! The command line: one file a command, what they share in [`options`], [`open`] and [`report`].

mod bench;
mod eval;
mod generate;
mod gpus;
mod inspect;
mod merge;
mod open;
mod options;
mod plan;
mod report;
mod selftest;
mod train;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Fine-tunes small language models on your own GPU.
#[derive(Parser)]
#[command(name = "espalier", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "A MODEL is a Hugging Face folder, a .gguf file, or owner/name[@revision][:file.gguf] on the hub, \
    which is fetched once into a cache (ESPALIER_CACHE names another place for it)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the GPU adapters with their limits and features
    Gpus(gpus::Options),
    /// Show a model's family, sizes, tensors by type, tokenizer and chat template
    Inspect(inspect::Options),
    /// Say what a run will cost before it starts: bytes by category, operations, parameters trained
    Plan(Box<plan::Options>),
    /// Fine-tune a model on a data set
    Train(Box<train::Options>),
    /// Measure the loss of a model, with or without an adapter, on a data set
    Eval(eval::Options),
    /// Answer a prompt, or chat
    Generate(generate::Options),
    /// Merge an adapter into its model: a Hugging Face folder or a GGUF file
    Merge(merge::Options),
    /// Compare what this GPU computes with what the CPU computes
    Selftest(selftest::Options),
    /// Measure what this GPU reaches, in products and in whole training steps
    Bench(bench::Options),
}

/// How a command ended that did not fail.
enum Outcome {
    Done,
    /// The user interrupted it; what was done is kept.
    Interrupted,
}

/// Runs the command that the arguments name. Exit code 0, 1 with one sentence on failure, 130 where interrupted.
pub fn main() -> ExitCode {
    ask_no_compositor();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Asking for help is no failure; there is nobody to tell where printing fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    log_to_stderr();
    end_quietly_when_nobody_reads();
    match run(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Gpus(options) => gpus::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Plan(options) => plan::run(&options),
        Command::Train(options) => train::run(&options),
        Command::Eval(options) => eval::run(&options),
        Command::Generate(options) => generate::run(&options),
        Command::Merge(options) => merge::run(&options),
        Command::Selftest(options) => selftest::run(&options),
        Command::Bench(options) => bench::run(&options),
    }
}

/// The error and its causes, each said once.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Warnings of the library go to standard error; `RUST_LOG` asks for more.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off,espalier=warn"));
    // Fails only where a subscriber is set already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .try_init();
}

/// Ends the process where the reader of its output has seen enough (`espalier inspect ... | head`), which is no failure.
fn end_quietly_when_nobody_reads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|text| text.starts_with("failed printing to stdout")) {
            std::process::exit(0);
        }
        report(panic);
    }));
}

/// Mesa's layer for choosing among GPUs asks the Wayland compositor which one drives the screen. Without a session there is
/// none to ask, which libwayland would complain about on standard error; then the layer is left out.
fn ask_no_compositor() {
    const SWITCH: &str = "NODEVICE_SELECT";
    if cfg!(target_os = "linux") && ["XDG_RUNTIME_DIR", SWITCH].iter().all(|name| std::env::var_os(name).is_none()) {
        // SAFETY: this is the first thing that the process does; there is no other thread yet that could read or write the
        // environment at the same time.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

/// A flag that Ctrl-C sets. A second Ctrl-C ends the process at once.
fn cancel_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping; Ctrl-C again stops at once");
    })?;
    Ok(cancel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_every_command_is_documented() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn an_error_is_one_sentence_without_repeats() {
        let inner = espalier::Error::malformed("a.gguf", "is truncated");
        let error = anyhow::Error::from(inner).context("the model");
        assert_eq!(sentence(&error), "the model: a.gguf: is truncated");
        let twice = anyhow::anyhow!("disk full").context("cannot write x: disk full");
        assert_eq!(sentence(&twice), "cannot write x: disk full");
    }
}
