//! Models: configuration (families are data), weights, the one decoder, tokenizer and chat template.

pub mod chat_template;
pub mod config;
pub mod decoder;
pub mod device;
pub mod files;
pub mod tokenizer;
pub mod weights;

pub use chat_template::ChatTemplate;
pub use config::ModelConfig;
pub use decoder::{Decoder, ModelGraph, Purpose, WeightPolicy};
pub use device::{DeviceModel, ModelSetup};
pub use files::ModelFiles;
