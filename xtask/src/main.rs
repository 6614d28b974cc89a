//! `cargo xtask`: what a newcomer and the continuous integration run. Each command does its own set-up and says what it does.

mod demo;
mod hub;
mod page;
mod page_tests;
mod process;
mod seedling;
mod serve;
mod smollm2;
mod suite;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, tests and shows Espalier. Each command installs what it needs, or says what to install.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fine-tune SmolLM2-135M-Instruct on a small data set, and compare it before and after
    Demo(demo::Options),
    /// Make the small model that the web page holds, from nothing
    Seedling(seedling::Options),
    /// Build the page, and serve it on localhost
    Serve(serve::Options),
    /// Build the page, and say how large it is
    Page(page::Options),
    /// Compare the time of a training step in the page with that of the native build, on the same adapter
    BenchWeb(page_tests::BenchOptions),
    /// Check the format, lint, build the documentation, and run every test natively and in a browser
    Test(suite::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Seedling(options) => seedling::make(&options).map(|()| true),
        Command::Serve(options) => serve::run(&options),
        Command::Page(options) => page::run_command(&options),
        Command::BenchWeb(options) => page_tests::bench(&options),
        Command::Test(options) => suite::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
