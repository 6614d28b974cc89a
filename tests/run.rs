//! Runs that are stopped, and devices that are lost: what follows is what would have followed. Natively and in a browser.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use espalier::data::{Batch, Dataset, Example};
use espalier::gpu::{Gpu, GpuOptions};
use espalier::graph::Checkpointing;
use espalier::model::device::{DeviceModel, ModelSetup};
use espalier::model::{ModelFiles, WeightPolicy};
use espalier::ops::ArenaKind;
use espalier::ops::adamw::AdamW;
use espalier::platform::{IN_BROWSER, spawn_local, yield_now};
use espalier::quant::WeightFormat;
use espalier::train::run::{Ending, Event, Host, Prepared, Run};
use espalier::train::trainer::{Trainer, TrainerSetup};
use espalier::train::{Checkpoint, GradCheckpointing, RunConfig};
use espalier::{Error, Result, exec};
use support::tiny_llama::{Tiny, batch, load};

const F32: WeightPolicy = WeightPolicy { linears: WeightFormat::F32, embedding: WeightFormat::F32 };

/// Two micro-batches, with dropout in between.
async fn trainer(gpu: &Rc<Gpu>, tiny: &Tiny) -> Result<(Trainer, Vec<Batch>)> {
    let batches = vec![batch(&tiny.expected["batch"], 0); 2];
    let shape = (batches[0].batch_size, batches[0].context);
    let mut method = tiny.lora.method.clone();
    if let espalier::peft::Method::Lora(lora) = &mut method {
        lora.lora_dropout = 0.2;
    }
    let config = tiny.files.config().clone();
    let setup = TrainerSetup {
        model: ModelSetup { config, policy: F32, method, positions: 32, seed: 1 },
        optimizer: AdamW::default(),
        max_grad_norm: 1.0,
        checkpointing: Checkpointing::Off,
        train_shapes: vec![shape],
        eval_shapes: vec![shape],
        accumulation: batches.len(),
    };
    Ok((Trainer::new(gpu.clone(), &tiny.files, setup, &mut |_| true).await?, batches))
}

/// Says yes the `n`-th time that it is asked, counted from 0.
fn yes_at(n: usize) -> impl Fn() -> bool {
    let asked = Cell::new(0);
    move || asked.replace(asked.get() + 1) == n
}

/// Every number that training changes.
async fn state(trainer: &Trainer) -> Result<Vec<u32>> {
    let mut bits = vec![];
    for kind in [ArenaKind::Params, ArenaKind::Moment1, ArenaKind::Moment2] {
        let tensors = trainer.model.read_arena(kind).await?;
        bits.extend(tensors.iter().flat_map(|t| &t.data).map(|x| x.to_bits()));
    }
    Ok(bits)
}

async fn a_step_cancelled_anywhere_changes_nothing(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("blocks64")?;
    let (mut plain, batches) = trainer(&gpu, &tiny).await?;
    let (mut stopped, _) = trainer(&gpu, &tiny).await?;
    for step in 0..2 {
        let before = state(&stopped).await?;
        let mut cancelled = 0;
        let report = loop {
            match stopped.step(&batches, 1e-2, &yes_at(cancelled)).await {
                Err(Error::Cancelled) => cancelled += 1,
                report => break report?,
            }
            assert!(state(&stopped).await? == before, "step {step} cancelled at place {cancelled} left a trace");
        };
        // At least once in each micro-batch, and before the update.
        assert!(cancelled >= 3, "asked {cancelled} times");
        assert_eq!(report, plain.step(&batches, 1e-2, &|| false).await?);
        assert!(state(&stopped).await? == state(&plain).await?, "step {step} differs");
    }
    Ok(())
}

async fn an_evaluation_can_be_cancelled(gpu: Rc<Gpu>) -> Result<()> {
    let (mut trainer, batches) = trainer(&gpu, &load("tied")?).await?;
    let whole = trainer.evaluate(&batches, &|| false).await?;
    for n in 0..batches.len() {
        assert!(matches!(trainer.evaluate(&batches, &yes_at(n)).await, Err(Error::Cancelled)), "at batch {n}");
    }
    assert_eq!(trainer.evaluate(&batches, &|| false).await?, whole);
    Ok(())
}

async fn loading_can_be_cancelled_and_frees_its_buffers(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    let before = gpu.bytes();
    for n in [0, 5] {
        let (method, config) = (tiny.lora.method.clone(), tiny.files.config().clone());
        let setup = ModelSetup { config, policy: F32, method, positions: 32, seed: 1 };
        let stop = yes_at(n);
        let loaded = DeviceModel::load(gpu.clone(), &tiny.files, setup, true, &mut |_| !stop()).await;
        assert!(matches!(loaded, Err(Error::Cancelled)));
        assert_eq!(gpu.bytes(), before);
    }
    Ok(())
}

/// Keeps what a run tells, and does something after a step.
#[derive(Default)]
struct Desk<'a> {
    /// Step, and the bits of its loss.
    losses: Vec<(u64, u64)>,
    evaluations: Vec<(u64, u64)>,
    kept: Option<Checkpoint>,
    after: Option<(u64, &'a dyn Fn())>,
}

impl Host for Desk<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Step { metrics, .. } => {
                self.losses.push((metrics.step, metrics.loss.to_bits()));
                if let Some((_, act)) = self.after.filter(|(step, _)| *step == metrics.step) {
                    act();
                }
            }
            Event::Evaluated { evaluated, .. } => {
                self.evaluations.push((evaluated.step, evaluated.loss.to_bits()));
            }
            _ => {}
        }
        Ok(())
    }

    async fn keep(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.kept = Some(checkpoint.clone());
        Ok(())
    }
}

impl Desk<'_> {
    /// A desk that goes on from what this one kept.
    fn successor(&self) -> Desk<'static> {
        let step = self.kept.as_ref().map_or(0, |kept| kept.state.step);
        let made = |all: &[(u64, u64)]| all.iter().filter(|(at, _)| *at <= step).copied().collect();
        Desk { losses: made(&self.losses), evaluations: made(&self.evaluations), kept: self.kept.clone(), after: None }
    }
}

/// Whatever could make a difference: dropout, accumulation, shuffled rows of several lengths, held-out data.
fn choices() -> RunConfig {
    RunConfig {
        steps: Some(9),
        batch_size: 1,
        grad_accumulation: 4,
        rank: 4,
        dropout: 0.2,
        lr: Some(1e-2),
        eval_every: Some(3),
        checkpoint_every: 2,
        patience: 9,
        seed: 5,
        grad_checkpointing: GradCheckpointing::Off,
        ..RunConfig::default()
    }
}

async fn start<'f>(gpu: &Rc<Gpu>, files: &'f ModelFiles, from: Option<&Checkpoint>) -> Result<Run<'f>> {
    start_with(&choices(), gpu, files, from).await
}

async fn start_with<'f>(
    config: &RunConfig,
    gpu: &Rc<Gpu>,
    files: &'f ModelFiles,
    from: Option<&Checkpoint>,
) -> Result<Run<'f>> {
    let examples = |from: u32, count: u32| -> Vec<Example> {
        let ids = |row: u32| (0..6 + 3 * (row % 4)).map(|at| (7 * row + 5 * at * at) % 48).collect::<Vec<u32>>();
        (from..from + count)
            .map(|row| Example { input_ids: ids(row), labels: ids(row).iter().map(|&id| id as i32).collect() })
            .collect()
    };
    let data = Arc::new(Dataset::new("rows", examples(0, 14)));
    let held_out = Arc::new(Dataset::new("held out", examples(100, 3)));
    let prepared = Prepared::new(files, config, data, Some(held_out))?;
    let (setup, _) = prepared.plan(&exec::target(gpu))?;
    let from = from.map(|checkpoint| ("the checkpoint", checkpoint.clone()));
    prepared.start(gpu.clone(), setup, from, &mut |_| true).await
}

async fn whole(gpu: &Rc<Gpu>, files: &ModelFiles) -> Result<Desk<'static>> {
    let mut desk = Desk::default();
    let summary = start(gpu, files, None).await?.run(&mut desk, &AtomicBool::new(false)).await?;
    assert_eq!((summary.ending, desk.losses.len()), (Ending::Complete, 9));
    Ok(desk)
}

/// Sets the flag in a while.
fn set_after(turns: u32, flag: &Arc<AtomicBool>) {
    let flag = flag.clone();
    if IN_BROWSER {
        spawn_local(async move {
            for _ in 0..turns {
                yield_now().await;
            }
            flag.store(true, Ordering::Relaxed);
        });
    } else {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(4) * turns);
            flag.store(true, Ordering::Relaxed);
        });
    }
}

async fn a_run_stopped_at_any_moment_goes_on_bit_for_bit(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    let whole = whole(&gpu, &tiny.files).await?;
    let mut desk = Desk::default();
    let mut stops = 0;
    loop {
        let mut run = start(&gpu, &tiny.files, desk.kept.as_ref()).await?;
        let cancel = Arc::new(AtomicBool::new(false));
        // A few steps further each time, and each time at another place in a step.
        set_after(3 + 17 * stops, &cancel);
        let summary = run.run(&mut desk, &cancel).await?;
        if summary.ending != Ending::Cancelled {
            break;
        }
        assert_eq!(desk.kept.as_ref().map(|kept| kept.state.step), Some(summary.steps));
        stops += 1;
    }
    assert!(stops > 0, "the run ended before it was stopped");
    assert_eq!(desk.losses, whole.losses);
    assert_eq!(desk.evaluations, whole.evaluations);
    let bits = |desk: &Desk| -> Vec<u32> {
        let kept = desk.kept.as_ref().expect("a checkpoint at the end");
        kept.parameters.iter().flat_map(|t| &t.data).map(|x| x.to_bits()).collect()
    };
    assert!(bits(&desk) == bits(&whole), "the parameters differ");
    Ok(())
}

async fn a_run_whose_device_is_lost_goes_on_from_its_checkpoint_on_another(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    let whole = whole(&gpu, &tiny.files).await?;
    let doomed = Rc::new(Gpu::open(&GpuOptions::default()).await?);
    let lose = || doomed.lose();
    let mut desk = Desk { after: Some((5, &lose)), ..Desk::default() };
    let mut run = start(&doomed, &tiny.files, None).await?;
    let error = run.run(&mut desk, &AtomicBool::new(false)).await.expect_err("the device is gone");
    assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    drop(run);
    assert_eq!(doomed.bytes(), 0, "what the run had allocated is given back");
    assert_eq!(desk.kept.as_ref().map(|kept| kept.state.step), Some(4));

    let mut desk = desk.successor();
    let mut run = start(&gpu, &tiny.files, desk.successor().kept.as_ref()).await?;
    run.run(&mut desk, &AtomicBool::new(false)).await?;
    assert_eq!(desk.losses, whole.losses);
    assert_eq!(desk.evaluations, whole.evaluations);
    Ok(())
}

/// A device with a budget.
async fn within(budget_bytes: u64) -> Result<Rc<Gpu>> {
    Ok(Rc::new(Gpu::open(&GpuOptions { budget_bytes: Some(budget_bytes), ..GpuOptions::default() }).await?))
}

async fn a_run_beyond_the_budget_ends_in_one_sentence_and_frees_its_buffers(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    let run = start(&gpu, &tiny.files, None).await?;
    let planned = run.memory().0.total();
    for budget in [planned - 1, planned / 2] {
        let gpu = within(budget).await?;
        let error = start(&gpu, &tiny.files, None).await.err().expect("does not fit");
        let sentence = error.to_string();
        assert!(matches!(error, Error::OutOfMemory(_)), "{sentence}");
        let named = format!("the budget is {budget} bytes");
        assert!(
            sentence.contains("the run needs ") && sentence.contains(&named) && !sentence.contains('\n'),
            "{sentence}"
        );
        assert_eq!(gpu.bytes(), 0);
    }
    let (method, config) = (tiny.lora.method.clone(), tiny.files.config().clone());
    let setup = ModelSetup { config, policy: F32, method, positions: 32, seed: 1 };
    let before = gpu.bytes();
    let model = DeviceModel::load(gpu.clone(), &tiny.files, setup.clone(), true, &mut |_| true).await?;
    let needed = gpu.bytes() - before;
    drop(model);
    let gpu = within(needed / 2).await?;
    let error = DeviceModel::load(gpu.clone(), &tiny.files, setup, true, &mut |_| true).await.err();
    let error = error.expect("does not fit").to_string();
    assert!(error.starts_with("the GPU is out of memory (") && error.contains("of which "), "{error}");
    assert_eq!(gpu.bytes(), 0);
    Ok(())
}

async fn a_run_gets_along_with_its_budget(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    let whole = whole(&gpu, &tiny.files).await?;
    let planned = start(&gpu, &tiny.files, None).await?.memory().0.total();
    // With less than it takes to keep the activations, `auto` computes them again.
    let auto = RunConfig { grad_checkpointing: GradCheckpointing::Auto, ..choices() };
    for (config, budget) in [(choices(), planned), (auto, planned - 1)] {
        let gpu = within(budget).await?;
        let mut desk = Desk::default();
        start_with(&config, &gpu, &tiny.files, None).await?.run(&mut desk, &AtomicBool::new(false)).await?;
        assert_eq!(desk.losses, whole.losses);
    }
    Ok(())
}

async fn a_device_lost_within_a_step_is_told(_: Rc<Gpu>) -> Result<()> {
    let tiny = load("tied")?;
    for n in 0..3 {
        let doomed = Rc::new(Gpu::open(&GpuOptions::default()).await?);
        let (mut trainer, batches) = trainer(&doomed, &tiny).await?;
        let now = yes_at(n);
        let lose = || {
            if now() {
                doomed.lose();
            }
            false
        };
        let error = trainer.step(&batches, 1e-2, &lose).await.expect_err("the device is gone");
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    }
    Ok(())
}

gpu_tests!(
    a_step_cancelled_anywhere_changes_nothing,
    an_evaluation_can_be_cancelled,
    loading_can_be_cancelled_and_frees_its_buffers,
    a_run_stopped_at_any_moment_goes_on_bit_for_bit,
    a_run_whose_device_is_lost_goes_on_from_its_checkpoint_on_another,
    a_device_lost_within_a_step_is_told,
    a_run_beyond_the_budget_ends_in_one_sentence_and_frees_its_buffers,
    a_run_gets_along_with_its_budget,
);
