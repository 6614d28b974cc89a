//! Interrupted runs: what follows is what would have followed.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Workplace, command, espalier};

/// A run that uses whatever could make a difference: dropout, accumulation, shuffling, packing, held-out data, patience.
fn options<'a>(model: &'a str, data: &'a str, held_out: &'a str) -> Vec<&'a str> {
    let files = ["train", model, "--data", data, "--eval-data", held_out];
    let choices = [
        "--steps",
        "12",
        "--checkpoint-every",
        "4",
        "--eval-every",
        "3",
        "--patience",
        "9",
        "--dropout",
        "0.2",
        "--rank",
        "4",
        "--batch-size",
        "1",
        "--grad-accumulation",
        "2",
        "--seed",
        "11",
        "--lr",
        "1e-2",
        "--pack",
        "--context",
        "48",
    ];
    [&files[..], &choices].concat()
}

/// Starts a run and waits until it has made `steps` steps.
fn start_until(work: &Workplace, run: &str, arguments: &[&str], steps: usize) -> Child {
    let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while work.metrics(run).len() < steps {
        assert!(begun.elapsed() < Duration::from_secs(300), "the run made no {steps} steps");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let work = Workplace::new();
    let (model, data) = (work.model("blocks64"), work.tokens("data.jsonl", 9));
    let held_out = work.tokens("held-out.jsonl", 3);
    let options = options(&model, &data, &held_out);
    let (whole, killed) = (work.path("whole"), work.path("killed"));
    espalier(&[&options[..], &["--out", &whole]].concat()).ok();

    let mut child = start_until(&work, "killed", &[&options[..], &["--out", &killed]].concat(), 6);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!work.exists("killed/adapter_config.json"));
    let resumed = espalier(&["train", &model, "--data", &data, "--eval-data", &held_out, "--resume", &killed]);
    resumed.ok();
    assert_eq!(work.losses("killed"), work.losses("whole"));
    let evals = |run: &str| work.metrics(run).iter().map(|line| line["eval_loss"].as_f64()).collect::<Vec<_>>();
    assert_eq!(evals("killed"), evals("whole"));
    let adapter = |run: &str| work.read(&format!("{run}/adapter_model.safetensors"));
    assert_eq!(adapter("killed"), adapter("whole"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on() {
    let work = Workplace::new();
    let (model, data, out) = (work.model("tied"), work.tokens("data.jsonl", 9), work.path("run"));
    let arguments = ["train", &model, "--data", &data, "--out", &out, "--steps", "400", "--checkpoint-every", "0"];
    let mut process = command(&arguments);
    process.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = process.spawn().unwrap();
    let begun = Instant::now();
    while work.metrics("run").len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(300), "the run made no steps");
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{told}");
    let made = work.metrics("run").len();
    let go_on = format!("stopped after step {made}; go on with: espalier train {model} --data {data} --resume {out}");
    assert!(told.contains(&go_on), "{told}");
    assert!(work.exists("run/checkpoint.espalier") && !work.exists("run/adapter_config.json"));
    // The advice is taken, with a shorter run.
    let steps = (made + 2).to_string();
    espalier(&["train", &model, "--data", &data, "--resume", &out, "--steps", &steps]).ok();
    assert_eq!(work.metrics("run").len(), made + 2);
    assert!(work.exists("run/adapter_config.json"));
}

#[test]
fn a_checkpoint_of_another_run_or_a_damaged_one_is_refused() {
    let work = Workplace::new();
    let (model, data, out) = (work.model("tied"), work.tokens("data.jsonl", 9), work.path("run"));
    let files = ["train", &model, "--data", &data];
    espalier(&[&files[..], &["--out", &out, "--steps", "2", "--weights", "f32"]].concat()).ok();
    let refused = |arguments: &[&str]| espalier(&[arguments, &["--resume", &out]].concat()).sentence();
    let told = refused(&[&files[..], &["--rank", "4"]].concat());
    assert!(told.contains("rank is 4, it was 16"), "{told}");
    let other = work.tokens("other.jsonl", 5);
    let told = refused(&["train", &work.model("untied"), "--data", &other]);
    assert!(told.contains("the model is ") && told.contains("the data is "), "{told}");
    // An earlier run is not overwritten by accident.
    let told = espalier(&[&files[..], &["--out", &out]].concat()).sentence();
    assert!(told.contains("--resume") && told.contains("--overwrite"), "{told}");

    let mut bytes = work.read("run/checkpoint.espalier");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(work.path("run/checkpoint.espalier"), &bytes).unwrap();
    assert!(refused(&files).contains("damaged"));
    std::fs::write(work.path("run/checkpoint.espalier"), &bytes[..middle]).unwrap();
    assert!(refused(&files).contains("checkpoint.espalier"));
    assert_eq!(work.metrics("run").len(), 2, "a refused resume leaves the run as it was");
}
