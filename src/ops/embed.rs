//! Embedding lookup `y[n] = table[tokens[n]]`, from a table in any storage format, and the gradient of a trained table.

use super::linear;
use super::{Bind, Dispatch, LaunchContext, Op, Rule, expect_index, expect_inputs};
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Role, Tensor};
use crate::quant::WeightFormat;
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `tokens [N] u32, table [V, C]` to `y [N, C]`. A token outside the table gives zeros.
#[derive(Clone, Debug)]
pub struct Embed;

/// `tokens [N] u32, dy [N, C], dtable [V, C]` to `dtable[tokens[n]] += dy[n]`, in place, in the order of the tokens.
#[derive(Clone, Debug)]
pub struct EmbedGrad;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    in_features: u32,
    first_row: u32,
    shard_rows: u32,
}

impl Rule for Embed {
    const NAME: &'static str = "embed";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2])?;
        expect_index(Self::NAME, inputs[0], inputs[0].elements())?;
        if inputs[1].shape.len() != 2 {
            return Err(Error::shape(Self::NAME, format!("table {} is {:?}", inputs[1].name, inputs[1].shape)));
        }
        Ok(vec![(vec![inputs[0].elements(), inputs[1].cols()], DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        if cx.wants(1) {
            let tokens = cx.input(0);
            let dtable = cx.take_partial(1).ok_or_else(|| Error::shape(Self::NAME, "the table is no parameter"))?;
            let dtable = cx.apply(EmbedGrad.into(), &[tokens, dy, dtable])?;
            cx.set(1, dtable)?;
        }
        Ok(())
    }

    fn flops(&self, _inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        0
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (tokens, table, cols) = (cx.int(0), cx.real(1), cx.inputs[1].cols());
        let rows = cx.inputs[1].rows();
        let mut y = vec![R::zero(); tokens.len() * cols];
        for (row, &token) in y.chunks_mut(cols).zip(tokens).filter(|(_, token)| (**token as usize) < rows) {
            row.copy_from_slice(&table[token as usize * cols..][..cols]);
        }
        Ok(vec![y])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (y, table) = (cx.output(0), cx.input(1));
        let format = match table.role {
            Role::Weight(format) => format,
            _ => WeightFormat::F32,
        };
        let weight = cx.inputs[1];
        for (k, shard) in cx.shards(weight).into_iter().enumerate() {
            let params = Params {
                tokens: y.rows() as u32,
                in_features: y.cols() as u32,
                first_row: shard.rows.start as u32,
                shard_rows: shard.rows.len() as u32,
            };
            let mut prelude = Prelude::default().u32("WG_SIZE", WG_SIZE).u32("WEIGHT", 3).bool("FIRST", k == 0);
            for fragment in linear::format::one(format, cx.target.operands) {
                prelude = prelude.text(fragment);
            }
            let mut d = Dispatch::new(crate::shader!("embed", ["linear_index"]), "forward")
                .prelude(prelude)
                .params(&params)
                .read(cx.in_(0))
                .write(cx.out(0))
                .groups(cx.linear_groups(y.elements(), WG_SIZE));
            match table.role {
                Role::Weight(_) => {
                    for part in 0..shard.parts.len() {
                        d = d.read(Bind::Part { weight, shard: k, part });
                    }
                }
                _ => d = d.read(cx.in_(1)),
            }
            cx.push(d)?;
        }
        Ok(())
    }
}

impl Rule for EmbedGrad {
    const NAME: &'static str = "embed_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[3])?;
        let (tokens, dy, dtable) = (inputs[0], inputs[1], inputs[2]);
        expect_index(Self::NAME, tokens, dy.rows())?;
        if dy.cols() != dtable.cols() {
            let problem = format!("dy {:?} with table {} {:?}", dy.shape, dtable.name, dtable.shape);
            return Err(Error::shape(Self::NAME, problem));
        }
        Ok(vec![(dtable.shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(2, 0)]
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        inputs[1].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (tokens, dy, cols) = (cx.int(0), cx.real(1), cx.inputs[1].cols());
        let mut dtable = cx.real(2).to_vec();
        let rows = cx.inputs[2].rows();
        for (row, &token) in dy.chunks(cols).zip(tokens).filter(|(_, token)| (**token as usize) < rows) {
            let at = token as usize * cols;
            dtable[at..at + cols].iter_mut().zip(row).for_each(|(sum, v)| *sum += *v);
        }
        Ok(vec![dtable])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (dy, table) = (cx.input(1), cx.input(2));
        let params = Params {
            tokens: dy.rows() as u32,
            in_features: dy.cols() as u32,
            first_row: 0,
            shard_rows: table.rows() as u32,
        };
        let d = Dispatch::new(crate::shader!("embed_grad", ["linear_index"]), "backward_table")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&params)
            .read(cx.in_(0))
            .write(cx.in_(1))
            .write(cx.out(0))
            .groups(cx.linear_groups(dy.cols(), WG_SIZE));
        cx.push(d)
    }
}
