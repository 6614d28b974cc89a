//! The native commands of Espalier: `espalier --help` lists them.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
