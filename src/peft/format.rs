//! PEFT's file format: `adapter_config.json` and `adapter_model.safetensors`, with PEFT's names, in and out.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::lora::{LoraConfig, TargetModules};
use super::{Method, NamedTensor};
use crate::io::safetensors::{Dtype, SafetensorsWriter, TensorSpec};
use crate::io::{Files, SafetensorsReader};
use crate::{Error, Result};

/// File names of an adapter folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// An adapter on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub method: Method,
    /// `base_model_name_or_path`
    pub base_model: String,
    pub tensors: Vec<NamedTensor>,
}

impl Adapter {
    /// Reads a folder that PEFT or Espalier wrote. Errs on methods and options that Espalier does not compute, rather than
    /// leave them out.
    pub fn read(files: &dyn Files) -> Result<Adapter> {
        let text = files.read_text(CONFIG_FILE, 1 << 20)?;
        let file = format!("{}/{CONFIG_FILE}", files.location());
        let json: Json =
            serde_json::from_str(&text).map_err(|e| Error::malformed(&file, format!("is not JSON: {e}")))?;
        let method = Method::Lora(lora_from_json(&file, &json)?);
        let reader = SafetensorsReader::open(files.open(WEIGHTS_FILE)?)?;
        let mut tensors = vec![];
        for info in reader.tensors() {
            let mut data = vec![0.0; info.shape.iter().product()];
            let cols = info.shape.last().copied().unwrap_or(1).max(1);
            reader.read_f32_rows(&info.name, 0..data.len() / cols, &mut data)?;
            tensors.push(NamedTensor { name: info.name.clone(), shape: info.shape.clone(), data });
        }
        let base_model = json["base_model_name_or_path"].as_str().unwrap_or_default().to_string();
        Ok(Adapter { method, base_model, tensors })
    }

    /// The files of the adapter's folder, as (name, bytes). Only LoRA adapters have this format.
    pub fn to_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let Method::Lora(lora) = &self.method else {
            return Err(Error::Unsupported {
                what: "an adapter file for this method".into(),
                supported: "lora".into(),
            });
        };
        let config = lora_to_json(lora, &self.base_model);
        let config = serde_json::to_vec_pretty(&config)
            .map_err(|e| Error::malformed(CONFIG_FILE, format!("cannot be written: {e}")))?;
        let specs = self.tensors.iter().map(|t| TensorSpec::new(&t.name, Dtype::F32, &t.shape)).collect();
        let mut writer = SafetensorsWriter::new(WEIGHTS_FILE, vec![], &BTreeMap::new(), specs)?;
        let by_name: BTreeMap<&str, &NamedTensor> = self.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for spec in writer.order().to_vec() {
            writer.append(&spec.name, bytemuck::cast_slice(&by_name[spec.name.as_str()].data))?;
        }
        Ok(vec![(CONFIG_FILE.into(), config), (WEIGHTS_FILE.into(), writer.finish()?)])
    }
}

fn lora_from_json(file: &str, json: &Json) -> Result<LoraConfig> {
    let unsupported = |what: String, supported: &str| Error::Unsupported {
        what: format!("{file}: {what}"),
        supported: supported.into(),
    };
    let kind = json["peft_type"].as_str().unwrap_or("(none)");
    if kind != "LORA" {
        return Err(unsupported(format!("peft_type {kind}"), "LORA"));
    }
    // Options that change what the adapter computes and that the graph does not build.
    for key in ["use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora"] {
        if json[key].as_bool() == Some(true) {
            return Err(unsupported(format!("{key} = true"), "false"));
        }
    }
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "exclude_modules",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
    ] {
        let value = &json[key];
        let empty = value.is_null()
            || value.as_object().is_some_and(|o| o.is_empty())
            || value.as_array().is_some_and(|a| a.is_empty());
        if !empty {
            return Err(unsupported(format!("{key} = {value}"), "null"));
        }
    }
    if let Some(bias) = json["bias"].as_str().filter(|b| *b != "none") {
        return Err(unsupported(format!("bias = {bias}"), "none"));
    }
    let number = |key: &str| {
        json[key].as_f64().ok_or_else(|| Error::malformed(file, format!("{key} is {}, expected a number", json[key])))
    };
    let r = number("r")? as usize;
    if r == 0 || r > 1 << 16 {
        return Err(Error::malformed(file, format!("r is {r}, expected 1 to 65536")));
    }
    let target_modules = match &json["target_modules"] {
        Json::String(s) if s == "all-linear" => TargetModules::AllLinear,
        Json::Array(names) => TargetModules::Names(names.iter().filter_map(|n| n.as_str().map(String::from)).collect()),
        other => return Err(unsupported(format!("target_modules = {other}"), "a list of names, all-linear")),
    };
    Ok(LoraConfig {
        r,
        lora_alpha: number("lora_alpha")? as f32,
        lora_dropout: json["lora_dropout"].as_f64().unwrap_or(0.0) as f32,
        target_modules,
        use_rslora: json["use_rslora"].as_bool().unwrap_or(false),
    })
}

fn lora_to_json(lora: &LoraConfig, base_model: &str) -> Json {
    let targets: Vec<String> = match &lora.target_modules {
        TargetModules::AllLinear => {
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(String::from).to_vec()
        }
        TargetModules::Names(names) => names.clone(),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": null,
        "inference_mode": true,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": targets,
        "use_rslora": lora.use_rslora,
        "use_dora": false,
        "bias": "none",
        "lora_bias": false,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": null,
        "layers_to_transform": null,
        "layers_pattern": null,
        "exclude_modules": null,
    })
}
