//! Step 3: what is trained, and how. What it costs is in `cost.rs`.

use espalier::model::config::LINEAR_MODULES;
use espalier::peft::TargetModules;
use espalier::quant::WeightFormat;
use espalier::train::{GradCheckpointing, MethodFacts, MethodName, RunConfig, Schedule};
use leptos::prelude::*;

use super::choices::{NumberChoice, PACE, SHAPE, WATCH};
use super::cost::Cost;
use super::field::{Choice, Number, Tick, Words};
use super::state::State;
use super::term::Term;

/// The step.
#[component]
pub fn StepMethod() -> impl IntoView {
    let state = State::here();
    let training = move || state.run.phase.get().is_live();
    view! {
        {move || training().then(|| view! { <p class="notice">"A run goes on with the choices that it began with. To change them, end it first."</p> })}
        <fieldset class="plain" disabled=training>
            <legend class="for-ears">"Choices"</legend>
            <section class="card" aria-labelledby="methods-title">
                <h3 id="methods-title">"What is trained"</h3>
                <div class="cards">{MethodFacts::ALL.iter().map(|facts| view! { <MethodCard facts /> }).collect_view()}</div>
                <Prompt />
                <details class="advanced" id="method-advanced">
                    <summary>"Advanced"</summary>
                    <Advanced />
                </details>
            </section>
        </fieldset>
        <Cost />
    }
}

/// The number fields of a table of choices, those that the method has.
#[component]
pub fn NumberChoices(rows: &'static [NumberChoice]) -> impl IntoView {
    let state = State::here();
    let method = Memo::new(move |_| state.config.with(|c| c.method));
    let field = move |row: &'static NumberChoice| {
        let value = Signal::derive(move || state.config.with(row.get));
        let auto = Signal::derive(move || state.plan.with(|p| p.as_ref().and_then(row.auto?)));
        let open = row.auto.is_some();
        let set = move |value| state.choose(|config| (row.set)(config, value));
        view! { <Number id=row.id words=row.words range=row.range value auto open set /> }
    };
    move || {
        let method = method.get();
        let has = |row: &&'static NumberChoice| row.methods.is_empty() || row.methods.contains(&method);
        rows.iter().filter(has).map(field).collect_view()
    }
}

#[component]
fn MethodCard(facts: &'static MethodFacts) -> impl IntoView {
    let state = State::here();
    let chosen = move || state.config.with(|config| config.method == facts.name);
    let choose = move |_| {
        let preset = state.model.with_untracked(|m| m.as_ref().map(|m| m.preset.clone()));
        let preset = preset.filter(|preset| preset.method == facts.name).unwrap_or_else(|| facts.preset());
        state.choose(|config| take_method(config, &preset));
    };
    let id = format!("method-{}", facts.id);
    view! {
        <label class="option method" class:chosen=chosen for=id.clone()>
            <input type="radio" name="method" id=id.clone() prop:checked=chosen on:change=choose />
            <span class="option-title">{facts.title}</span>
            <span class="option-art">{facts.term}</span>
            <span>{facts.sentence}</span>
            <span class="hint">{facts.preset_words()}</span>
        </label>
    }
}

/// The method of `preset`, with the choices that depend on the method; what belongs to data and watching stays.
fn take_method(config: &mut RunConfig, preset: &RunConfig) {
    config.method = preset.method;
    config.weights = preset.weights;
    config.embedding = preset.embedding;
    config.rank = preset.rank;
    config.alpha = preset.alpha;
    config.dropout = preset.dropout;
    config.rslora = preset.rslora;
    config.target_modules = preset.target_modules.clone();
    config.lr = preset.lr;
}

/// The fixed prompt, which is asked while it trains.
#[component]
fn Prompt() -> impl IntoView {
    let state = State::here();
    view! {
        <div class="field">
            <div class="field-head">
                <label for="sample-prompt">"A prompt to watch"</label>
            </div>
            <input
                type="text"
                id="sample-prompt"
                autocomplete="off"
                aria-describedby="sample-prompt-hint"
                prop:value=move || state.config.with(|c| c.sample_prompt.clone().unwrap_or_default())
                on:input=move |event| {
                    let text = event_target_value(&event);
                    state.choose(|c| c.sample_prompt = Some(text).filter(|text| !text.trim().is_empty()));
                }
            />
            <p class="hint" id="sample-prompt-hint">
                "It is answered now and then during training, so that you see the model change. It stays on this device, also when you share the settings."
            </p>
        </div>
    }
}

const WEIGHTS: &[(&str, &str)] = &[
    ("", "Automatic"),
    ("nf4", "4 bits: NF4, scales quantized too"),
    ("nf4-no-double-quant", "4 bits: NF4"),
    ("fp4", "4 bits: FP4"),
    ("int4", "4 bits: whole numbers"),
    ("int8", "8 bits"),
    ("f16", "16 bits: f16"),
    ("bf16", "16 bits: bf16"),
    ("f32", "32 bits, unchanged"),
];
const SCHEDULES: &[(&str, &str)] = &[
    ("cosine", "Slows down smoothly (cosine)"),
    ("linear", "Slows down evenly (linear)"),
    ("constant", "Stays the same (constant)"),
];
const CHECKPOINTING: &[(&str, &str)] =
    &[("auto", "Automatic"), ("on", "On: less memory, a third more work"), ("off", "Off: faster, more memory")];

/// The name that serde gives a unit variant, and back.
fn name_of<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
}

fn named<T: serde::de::DeserializeOwned>(name: String) -> Option<T> {
    serde_json::from_value(name.into()).ok()
}

#[component]
fn Advanced() -> impl IntoView {
    let state = State::here();
    let read = move |get: fn(&RunConfig) -> String| Signal::derive(move || state.config.with(get));
    let lora = move || state.config.with(|c| c.method == MethodName::Lora);
    let quantizable = move || {
        let method = state.config.with(|c| c.method);
        MethodFacts::of(method).quantized_base
    };
    let weights = Words {
        label: "Frozen weights are stored in",
        hint: "Fewer bits take less memory and lose a little.",
        art: "quantization",
        explain: "Weights in few bits, with a scale for each block of them. A LoRA on 4-bit weights is called QLoRA.",
    };
    let schedule = Words {
        label: "The steps' size over time",
        hint: "After the slow start.",
        art: "schedule",
        explain: "How the learning rate falls until the end of the run.",
    };
    let checkpointing = Words {
        label: "Compute again instead of remembering",
        hint: "",
        art: "gradient checkpointing",
        explain: "Activations inside the layers are computed a second time on the way back, which saves most of their memory.",
    };
    let pack = Words {
        label: "Put short examples together in a row",
        hint: "Faster with many short examples. They do not see each other.",
        art: "packing",
        explain: "Several examples share a row, with a wall between them in attention.",
    };
    let rslora = Words {
        label: "Scale by the root of the rank",
        hint: "Steadier at high ranks.",
        art: "rsLoRA",
        explain: "The change is multiplied by alpha divided by the square root of the rank.",
    };
    view! {
        <h4>"The method"</h4>
        <div class="fields">
            <NumberChoices rows=SHAPE />
            {move || {
                lora()
                    .then(|| {
                        view! {
                            <Tick
                                id="rslora"
                                words=rslora
                                value=Signal::derive(move || state.config.with(|c| c.rslora))
                                set=move |on| state.choose(|c| c.rslora = on)
                            />
                            <Targets />
                        }
                    })
            }}
            {move || {
                quantizable()
                    .then(|| {
                        view! {
                            <Choice
                                id="weights"
                                words=weights
                                options=WEIGHTS
                                value=read(|c| c.weights.map(|w| w.name().to_string()).unwrap_or_default())
                                set=move |name| state.choose(|c| c.weights = name.parse::<WeightFormat>().ok())
                            />
                        }
                    })
            }}
            <Choice
                id="grad-checkpointing"
                words=checkpointing
                options=CHECKPOINTING
                value=read(|c| name_of(&c.grad_checkpointing))
                set=move |name| {
                    if let Some(value) = named::<GradCheckpointing>(name) {
                        state.choose(|c| c.grad_checkpointing = value);
                    }
                }
            />
        </div>
        <h4>"Pace"</h4>
        <div class="fields">
            <NumberChoices rows=PACE />
            <Choice
                id="schedule"
                words=schedule
                options=SCHEDULES
                value=read(|c| name_of(&c.schedule))
                set=move |name| {
                    if let Some(value) = named::<Schedule>(name) {
                        state.choose(|c| c.schedule = value);
                    }
                }
            />
            <Tick
                id="pack"
                words=pack
                value=Signal::derive(move || state.config.with(|c| c.pack))
                set=move |on| state.choose(|c| c.pack = on)
            />
        </div>
        <h4>"Watching and saving"</h4>
        <div class="fields">
            <NumberChoices rows=WATCH />
        </div>
        <p class="hint">"How much is kept aside, and the longest example, are chosen on the Data step."</p>
    }
}

/// Which layers are changed: all, or those that are ticked.
#[component]
fn Targets() -> impl IntoView {
    let state = State::here();
    let has = move |name: &'static str| {
        state.config.with(|c| match &c.target_modules {
            TargetModules::AllLinear => true,
            TargetModules::Names(names) => names.iter().any(|n| n == name),
        })
    };
    let set = move |name: &'static str, on: bool| {
        let names = LINEAR_MODULES.iter().map(|(n, _)| *n);
        let names: Vec<_> =
            names.filter(|n| if *n == name { on } else { untrack(|| has(n)) }).map(str::to_string).collect();
        state.choose(|c| {
            c.target_modules = match names.len() == LINEAR_MODULES.len() {
                true => TargetModules::AllLinear,
                false => TargetModules::Names(names),
            }
        });
    };
    view! {
        <fieldset class="field targets" id="target-modules">
            <legend>"Layers that are changed"</legend>
            <Term
                art="target modules"
                explain="q, k, v, o are attention's four; gate, up, down are the three of the feed-forward part. All is best for most things."
            />
            <div class="ticks">
                {LINEAR_MODULES
                    .iter()
                    .map(|(name, _)| {
                        let name = *name;
                        view! {
                            <label>
                                <input
                                    type="checkbox"
                                    id=format!("target-{name}")
                                    prop:checked=move || has(name)
                                    on:change=move |event| set(name, event_target_checked(&event))
                                />
                                <code>{name}</code>
                            </label>
                        }
                    })
                    .collect_view()}
            </div>
        </fieldset>
    }
}
