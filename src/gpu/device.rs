//! Opening a device: which adapters there are, what they can do, and what happens when one fails.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::{Error, Result};

/// Which adapter to open, and how.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name (case is ignored) or its index in [`Gpu::adapters`]; the fastest one when absent.
    pub adapter: Option<String>,
    /// Keep the WebGPU default limits although the adapter offers more: what the weakest browser has.
    pub default_limits: bool,
    /// Keep bounds checks in shaders (always on in a browser).
    pub checked: bool,
    /// Most bytes to allocate, what is read back to the host left out; as many as the device gives when absent.
    pub budget_bytes: Option<u64>,
}

/// What the user sees of an adapter.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterSummary {
    pub index: usize,
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    pub backend: String,
    pub driver: String,
    pub max_buffer_bytes: u64,
    pub max_binding_bytes: u64,
    pub workgroup_bytes: u32,
    pub max_invocations: u32,
    pub subgroup_sizes: [u32; 2],
    /// Half-precision arithmetic in shaders.
    pub f16: bool,
    /// Timestamps for profiling.
    pub timestamps: bool,
}

/// An open device with its queue. One per process or worker; not shared between threads.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) checked: bool,
    budget_bytes: Option<u64>,
    pub(super) counters: Arc<Counters>,
    pub(super) pipelines: RefCell<HashMap<super::dispatch::PipelineKey, Rc<super::dispatch::Pipeline>>>,
    summary: AdapterSummary,
    limits: wgpu::Limits,
    failure: Arc<Mutex<Option<Failure>>>,
}

#[derive(Clone, Debug)]
enum Failure {
    Lost(String),
    Memory(String),
    Other(String),
}

/// What has been allocated and created so far; a training loop must leave the two last ones alone.
#[derive(Default)]
pub struct Counters {
    pub(super) bytes: AtomicU64,
    pub(super) peak_bytes: AtomicU64,
    pub(super) buffers_created: AtomicU64,
    pub(super) bind_groups_created: AtomicU64,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = wgpu::Backends::PRIMARY.with_env();
    wgpu::Instance::new(descriptor)
}

fn summary(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other if is_software(&info.name) => "software",
        wgpu::DeviceType::Other => "other",
    };
    AdapterSummary {
        index,
        name: if info.name.is_empty() { "WebGPU adapter".into() } else { info.name },
        kind: kind.into(),
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
        f16: features.contains(wgpu::Features::SHADER_F16),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
    }
}

fn is_software(name: &str) -> bool {
    let name = name.to_lowercase();
    ["llvmpipe", "swiftshader", "lavapipe", "basic render"].iter().any(|s| name.contains(s))
}

/// Fast adapters first; software ones last.
fn rank(kind: &str) -> u32 {
    ["discrete", "integrated", "virtual", "other", "software"].iter().position(|k| *k == kind).unwrap_or(4) as u32
}

const REMEDY: &str = "Install a Vulkan, Metal or DirectX 12 driver (on Debian and Ubuntu, `apt-get install \
    mesa-vulkan-drivers` brings one that needs no GPU); in a browser, use one with WebGPU switched on";

fn no_adapter(found: impl Into<String>) -> Error {
    Error::NoAdapter { found: found.into(), remedy: REMEDY.into() }
}

async fn candidates(instance: &wgpu::Instance) -> Vec<(AdapterSummary, wgpu::Adapter)> {
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::PRIMARY.with_env()).await;
    if adapters.is_empty() {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        adapters.extend(instance.request_adapter(&options).await);
    }
    adapters.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    adapters.sort_by_key(|a| rank(&summary(0, a).kind));
    adapters.into_iter().enumerate().map(|(i, a)| (summary(i, &a), a)).collect()
}

impl Gpu {
    /// All adapters that can compute, the fastest kind first.
    pub async fn adapters() -> Vec<AdapterSummary> {
        candidates(&instance()).await.into_iter().map(|c| c.0).collect()
    }

    /// Opens a device with all the limits its adapter offers. Errs when there is none, or none by that name.
    pub async fn open(options: &GpuOptions) -> Result<Gpu> {
        let instance = instance();
        let mut found = candidates(&instance).await;
        if found.is_empty() {
            return Err(no_adapter("none was found"));
        }
        let position = match &options.adapter {
            None => 0,
            Some(wanted) => {
                let by_index = wanted.parse::<usize>().ok().filter(|i| *i < found.len());
                let lower = wanted.to_lowercase();
                by_index.or_else(|| found.iter().position(|c| c.0.name.to_lowercase().contains(&lower))).ok_or_else(
                    || Error::Option {
                        name: "gpu".into(),
                        value: wanted.clone(),
                        expected: format!(
                            "expected one of {}",
                            found
                                .iter()
                                .map(|c| format!("{} ({})", c.0.index, c.0.name))
                                .collect::<Vec<_>>()
                                .join(", ")
                        ),
                    },
                )?
            }
        };
        let (summary, adapter) = found.swap_remove(position);
        let offered = adapter.limits();
        let limits = if options.default_limits { wgpu::Limits::default() } else { offered };
        let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("espalier"),
                required_features: adapter.features() & wanted,
                required_limits: limits.clone(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            })
            .await
            .map_err(|e| no_adapter(format!("{} refused to open: {e}", summary.name)))?;
        let failure = Arc::new(Mutex::new(None));
        let first = |slot: &Mutex<Option<Failure>>, failure| {
            slot.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(failure);
        };
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let failure = match error {
                wgpu::Error::OutOfMemory { source } => Failure::Memory(source.to_string()),
                other => Failure::Other(other.to_string()),
            };
            first(&slot, failure);
        }));
        let slot = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed || !message.is_empty() {
                first(&slot, Failure::Lost(format!("{reason:?} {message}")));
            }
        });
        Ok(Gpu {
            device,
            queue,
            checked: options.checked,
            budget_bytes: options.budget_bytes,
            counters: Arc::default(),
            pipelines: RefCell::default(),
            summary,
            limits,
            failure,
        })
    }

    /// What was opened.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// The limits in force.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// Whether the adapter is a CPU.
    pub fn is_software(&self) -> bool {
        self.summary.kind == "software" || is_software(&self.summary.name)
    }

    /// Errs when the device was lost or reported an error since it was opened; a run must not go on after one.
    pub fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(|e| e.into_inner()).clone() {
            None => Ok(()),
            Some(Failure::Lost(why)) => Err(Error::DeviceLost(why)),
            Some(Failure::Memory(why)) => Err(Error::OutOfMemory(why)),
            Some(Failure::Other(why)) => Err(Error::Gpu(why)),
        }
    }

    /// Runs `f` and errs with [`Error::OutOfMemory`] when the device had no room for what it allocated.
    pub async fn guarded<T>(&self, what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = f();
        let validation = validation.pop();
        let memory = memory.pop();
        if let Some(error) = validation.await {
            return Err(Error::Gpu(format!("{what}: {error}")));
        }
        if memory.await.is_some() {
            return Err(Error::OutOfMemory(what.into()));
        }
        self.check()?;
        result
    }

    /// Loses the device on purpose: everything fails from here on. For tests of recovery.
    pub fn lose(&self) {
        self.failure
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get_or_insert(Failure::Lost("destroyed on request".into()));
        self.device.destroy();
    }

    /// Errs with [`Error::OutOfMemory`] where `what`, `bytes` large, does not fit into what is left of the budget.
    pub fn check_budget(&self, what: &str, bytes: u64) -> Result<()> {
        let used = self.bytes();
        match self.budget_bytes {
            Some(budget) if used.saturating_add(bytes) > budget => Err(Error::OutOfMemory(format!(
                "{what} needs {bytes} bytes, the budget is {budget} bytes, of which {used} are in use"
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes allocated now.
    pub fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }

    /// Most bytes allocated at any time.
    pub fn peak_bytes(&self) -> u64 {
        self.counters.peak_bytes.load(Ordering::Relaxed)
    }

    /// Counts [`Gpu::peak_bytes`] anew from here on.
    pub fn reset_peak(&self) {
        self.counters.peak_bytes.store(self.bytes(), Ordering::Relaxed);
    }

    /// Buffers and bind groups created so far.
    pub fn created(&self) -> (u64, u64) {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        (get(&self.counters.buffers_created), get(&self.counters.bind_groups_created))
    }
}
