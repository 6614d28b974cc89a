//! A model on the GPU: its weights in their storage formats, the method's parameters, and the memory that all graphs of a
//! run share.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::config::ModelConfig;
use super::decoder::{Decoder, ModelGraph, Purpose, WeightPolicy};
use super::files::ModelFiles;
use super::weights::TensorSource;
use crate::exec::{self, Memory, ParamLayout, Program};
use crate::gpu::{Gpu, Region, image_bytes};
use crate::graph::{Category, MemoryTable, Plan, Role, Target, Tensor};
use crate::ops::{rope, weight};
use crate::peft::{Method, NamedTensor};
use crate::{Error, Result};

/// How far loading is: bytes on the device now and in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Everything that decides which graphs are built, but not their shapes.
#[derive(Clone, Debug)]
pub struct ModelSetup {
    pub config: ModelConfig,
    pub policy: WeightPolicy,
    pub method: Method,
    /// Largest context of any graph of the run.
    pub positions: usize,
    /// Seed of the method's first values.
    pub seed: u64,
}

impl ModelSetup {
    /// The decoder for one shape.
    pub fn decoder(&self, batch: usize, context: usize) -> Decoder<'_> {
        Decoder {
            config: &self.config,
            policy: self.policy,
            method: &self.method,
            batch,
            context,
            positions: self.positions,
        }
    }
}

/// A graph with its plan, before there is memory for it.
pub struct Planned {
    pub model: ModelGraph,
    pub plan: Plan,
}

impl Planned {
    /// Builds and plans a graph.
    pub fn new(setup: &ModelSetup, batch: usize, context: usize, purpose: Purpose, target: &Target) -> Result<Planned> {
        let model = setup.decoder(batch, context).build(purpose)?;
        let plan = Plan::new(&model.graph, target)?;
        Ok(Planned { model, plan })
    }

    /// Bytes by category that a run of this graph alone needs, the optimizer's moments left out.
    pub fn memory(&self, target: &Target) -> Result<MemoryTable> {
        let graph = &self.model.graph;
        let mut table = MemoryTable::default();
        for tensor in &graph.tensors {
            match tensor.role {
                Role::Weight(_) => {
                    let shards = weight::shards(tensor, target);
                    let bytes = shards.iter().flat_map(|s| &s.parts).map(|p| p.bytes.max(4)).sum();
                    table.add(Category::Weights, bytes);
                }
                Role::State if tensor.name.starts_with("cache.") => table.add(Category::State, tensor.bytes()),
                _ => {}
            }
        }
        let parameters = ParamLayout::of(graph).bytes();
        table.add(Category::Parameters, parameters);
        table.add(Category::Gradients, parameters);
        let images: u64 = exec::images(graph, target)?.iter().map(|&(w, h)| image_bytes(w, h)).sum();
        table.add(Category::Activations, self.plan.arena_bytes() + images);
        table.add(Category::Inputs, exec::planned_bytes(graph, target)?);
        Ok(table)
    }
}

/// A graph ready to run.
pub struct Ready {
    pub program: Program,
    /// `[N]`
    pub nll: Option<Region>,
    /// `[R, V]`
    pub logits: Option<Region>,
    pub flops: u64,
}

/// A model on the GPU.
pub struct DeviceModel {
    pub gpu: Rc<Gpu>,
    pub memory: Memory,
    pub setup: ModelSetup,
}

/// Staging memory that may pile up before the device is waited for, bytes.
const FLUSH_BYTES: u64 = 64 << 20;

impl DeviceModel {
    /// Loads weights and first values of the parameters. `train` also allocates the optimizer's moments. `adapter` gives
    /// parameters their values; without it they start as the method says. `progress` ends the loading by returning false,
    /// which then errs with [`Error::Cancelled`] and frees what was allocated.
    pub async fn load(
        gpu: Rc<Gpu>,
        files: &ModelFiles,
        setup: ModelSetup,
        train: bool,
        progress: &mut dyn FnMut(LoadProgress) -> bool,
    ) -> Result<DeviceModel> {
        let target = exec::target(&gpu);
        // The tensors are those of any graph of this setup.
        let graph = setup.decoder(1, 1).build(Purpose::Logits)?.graph;
        let layout = ParamLayout::of(&graph);
        let frozen: Vec<&Tensor> = graph.tensors.iter().filter(|t| matches!(t.role, Role::Weight(_))).collect();
        let total_bytes = frozen.iter().map(|t| t.bytes()).sum::<u64>() + layout.bytes();
        let mut memory = gpu.guarded("memory", || Ok(Memory::new(&gpu, target))).await?;
        gpu.guarded("parameters", || memory.add_params(&gpu, &layout, train)).await?;
        let mut model = DeviceModel { gpu, memory, setup };
        let (mut done, mut pending) = (0, 0);
        for tensor in frozen {
            pending += model.load_frozen(files.source(), tensor).await?;
            done += tensor.bytes();
            if pending > FLUSH_BYTES {
                model.gpu.flush().await?;
                pending = 0;
            }
            if !progress(LoadProgress { done_bytes: done, total_bytes }) {
                return Err(Error::Cancelled);
            }
        }
        for tensor in graph.tensors.iter().filter(|t| matches!(t.role, Role::Param { .. })) {
            pending += model.load_parameter(files.source(), tensor)?;
            done += tensor.bytes();
            if pending > FLUSH_BYTES {
                model.gpu.flush().await?;
                pending = 0;
            }
            if !progress(LoadProgress { done_bytes: done.min(total_bytes), total_bytes }) {
                return Err(Error::Cancelled);
            }
        }
        model.gpu.flush().await?;
        Ok(model)
    }

    /// Takes the parameters of another method that trains none of the weights, which stay where they are. What was compiled
    /// before belongs to the old parameters.
    pub async fn adopt(&mut self, files: &ModelFiles, method: Method) -> Result<()> {
        if self.setup.method.trains_base() || method.trains_base() {
            return Err(Error::shape("adopt", "the weights themselves are trained"));
        }
        self.setup.method = method;
        let graph = self.setup.decoder(1, 1).build(Purpose::Logits)?.graph;
        let layout = ParamLayout::of(&graph);
        let (gpu, memory) = (&self.gpu, &mut self.memory);
        gpu.guarded("parameters", || memory.add_params(gpu, &layout, false)).await?;
        for tensor in graph.tensors.iter().filter(|t| matches!(t.role, Role::Param { .. })) {
            self.load_parameter(files.source(), tensor)?;
        }
        self.gpu.flush().await
    }

    /// Reads, encodes and uploads a frozen weight, shard by shard; the bytes staged.
    async fn load_frozen(&mut self, source: &dyn TensorSource, tensor: &Tensor) -> Result<u64> {
        let cols = tensor.cols();
        let mut staged = 0;
        for shard in weight::shards(tensor, &self.memory.target) {
            let mut data = vec![0.0; shard.rows.len() * cols];
            if tensor.name == "rope" {
                let table = rope::table(&self.setup.config.inv_freq(), self.setup.positions, 1.0);
                data.copy_from_slice(&table[shard.rows.start * cols..shard.rows.end * cols]);
            } else {
                source.read_rows(&tensor.name, shard.rows.clone(), &mut data)?;
            }
            let (gpu, memory) = (&self.gpu, &mut self.memory);
            gpu.guarded(&tensor.name, || memory.upload_shard(gpu, tensor, &data, &shard)).await?;
            staged += shard.parts.iter().map(|p| p.bytes).sum::<u64>();
        }
        Ok(staged)
    }

    fn load_parameter(&self, source: &dyn TensorSource, tensor: &Tensor) -> Result<u64> {
        let data = match self.setup.method.initial(&tensor.name, &tensor.shape, self.setup.seed) {
            Some(data) => data,
            None => {
                let mut data = vec![0.0; tensor.elements()];
                source.read_rows(&tensor.name, 0..tensor.rows(), &mut data)?;
                data
            }
        };
        self.memory.write(&self.gpu, tensor, &data)?;
        Ok(tensor.bytes())
    }

    /// Compiles and binds a planned graph; the arena must have been reserved.
    pub async fn ready(&mut self, planned: &Planned) -> Result<Ready> {
        let (graph, plan) = (&planned.model.graph, &planned.plan);
        let (gpu, memory) = (&self.gpu, &mut self.memory);
        let program = gpu
            .guarded("compiling the graph", || {
                for id in graph.with_role(|r| r == Role::State) {
                    memory.add_state(gpu, graph.get(id))?;
                }
                Program::new(gpu, graph, plan, memory)
            })
            .await?;
        let region = |id| program.region(graph, plan, &self.memory, id);
        let (nll, logits) = (planned.model.nll.and_then(region), planned.model.logits.and_then(region));
        Ok(Ready { nll, logits, flops: graph.flops(), program })
    }

    /// Makes the activation arena large enough for all of these plans.
    pub async fn reserve<'p>(&mut self, plans: impl IntoIterator<Item = &'p Planned>) -> Result<()> {
        let mut sizes: Vec<u64> = vec![];
        let mut images = exec::Images::default();
        for planned in plans {
            for (most, size) in images.iter_mut().zip(exec::images(&planned.model.graph, &self.memory.target)?) {
                *most = (most.0.max(size.0), most.1.max(size.1));
            }
            for (i, &bytes) in planned.plan.arena.iter().enumerate() {
                if i < sizes.len() {
                    sizes[i] = sizes[i].max(bytes);
                } else {
                    sizes.push(bytes);
                }
            }
        }
        let (gpu, memory) = (&self.gpu, &mut self.memory);
        let reserve = || memory.reserve_arena(gpu, &sizes).and_then(|()| memory.reserve_images(gpu, images));
        gpu.guarded("activations", reserve).await
    }

    /// Reads every parameter back, in arena order.
    pub async fn parameters(&self) -> Result<Vec<NamedTensor>> {
        self.read_arena(crate::ops::ArenaKind::Params).await
    }

    /// Reads one arena back as named tensors, in arena order.
    pub async fn read_arena(&self, kind: crate::ops::ArenaKind) -> Result<Vec<NamedTensor>> {
        let graph = self.setup.decoder(1, 1).build(Purpose::Logits)?.graph;
        let shapes: BTreeMap<&str, &[usize]> =
            graph.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
        let mut all = vec![];
        for name in &self.memory.layout().order {
            let data = self.gpu.read_f32(&self.memory.arena_of(kind, name)?).await?;
            all.push(NamedTensor { name: name.clone(), shape: shapes[name.as_str()].to_vec(), data });
        }
        Ok(all)
    }

    /// Gives parameters their values. Errs with every name and shape that does not fit, and every parameter left out.
    pub fn set_parameters(&self, file: &str, tensors: &[NamedTensor]) -> Result<()> {
        self.write_arena(crate::ops::ArenaKind::Params, file, tensors)
    }

    /// Writes one arena from named tensors.
    pub fn write_arena(&self, kind: crate::ops::ArenaKind, file: &str, tensors: &[NamedTensor]) -> Result<()> {
        let places = &self.memory.layout().places;
        let mut problems = vec![];
        for t in tensors {
            match places.get(&t.name) {
                None => problems.push(format!("{} {:?} is no parameter of this model and method", t.name, t.shape)),
                Some(&(_, _, bytes)) if bytes != 4 * t.data.len() as u64 => {
                    problems.push(format!("{} is {:?}, expected {} elements", t.name, t.shape, bytes / 4));
                }
                Some(_) => {}
            }
        }
        for name in places.keys().filter(|name| !tensors.iter().any(|t| t.name == **name)) {
            problems.push(format!("{name} is missing"));
        }
        if !problems.is_empty() {
            return Err(Error::Weights { file: file.into(), problems });
        }
        for t in tensors {
            let region = self.memory.arena_of(kind, &t.name)?;
            self.gpu.write(&region, 0, bytemuck::cast_slice(&t.data));
        }
        Ok(())
    }
}
