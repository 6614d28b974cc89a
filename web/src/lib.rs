//! Espalier's page and its worker. The page (`app`) draws and never touches the GPU; the worker (`worker`) holds the core.

pub mod client;
pub mod components;
pub mod protocol;
pub mod share;
pub mod worker;
