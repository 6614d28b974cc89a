//! One product of matrices as dispatches: which kernel, which tile, which fragments, chosen by a fixed rule from the shapes and
//! the device, so that the same machine always computes the same bits.
//!
//! | device | rows | kernel |
//! |---|---|---|
//! | GPU | more than 8 | `matmul_tiled`: tiles in workgroup memory |
//! | GPU | up to 8 | `matmul`: a thread reads its operands itself |
//! | CPU | any | `matmul`, large operands read from images ([`super::images`]) |

use super::format;
use crate::gpu::{Access, Prelude};
use crate::graph::Target;
use crate::ops::launch::Copy;
use crate::ops::{Bind, Dispatch, LaunchContext};
use crate::quant::WeightFormat;
use crate::{Result, fragment, shader};

/// Which operand of `y = a b` is transposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// `y = a b^T`: a [rows, depth], b [cols, depth].
    Nt,
    /// `y = a b`: a [rows, depth], b [depth, cols].
    Nn,
    /// `y = a^T b`: a [depth, rows], b [depth, cols].
    Tn,
}

/// Where a matrix of f32 lies, in elements: `(row, col)` at `first + row * stride + col`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub bind: Bind,
    pub access: Access,
    pub first: usize,
    pub stride: usize,
}

/// The right operand; its rows lie back to back.
#[derive(Clone, Debug)]
pub enum Right {
    /// f32 in one buffer.
    F32(Matrix),
    /// A shard of a frozen weight.
    Weight { format: WeightFormat, parts: Vec<Bind> },
    /// In the second image.
    Image,
}

/// The left operand.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    Buffer(Matrix),
    /// In the first image.
    Image,
}

/// `y [rows, cols] (+)= scale a b`, `depth` terms a sum.
#[derive(Clone, Debug)]
pub struct Product {
    pub order: Order,
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    pub a: Left,
    pub b: Right,
    pub y: Matrix,
    pub scale: f32,
    pub accumulate: bool,
    pub supervised_above: Option<u32>,
    /// Copies into images that come first.
    pub copies: Vec<Copy>,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    depth: u32,
    a_first: u32,
    a_stride: u32,
    y_first: u32,
    y_stride: u32,
    in_features: u32,
    scale: f32,
    b_first: u32,
    pad: [u32; 2],
}

/// The part of y that one workgroup of `matmul` computes: lanes in a grid, each with `rows` rows and `cols4` groups of four
/// columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tile {
    rows: u32,
    cols4: u32,
    lane_rows: u32,
    lane_cols: u32,
}

impl Tile {
    /// For `lanes` threads a workgroup. Large tiles read less, but a product should make some workgroups for every core, and
    /// reads that are many instructions (`heavy`: decoding, or rows that are no vec4s) make a large tile long to compile.
    fn new(order: Order, rows: usize, cols: usize, lanes: u32, heavy: bool) -> Tile {
        let (rows, cols4) = (rows as u32, (cols as u32).div_ceil(4));
        let fit = |n: u32, most: u32| n.next_power_of_two().clamp(1, most);
        let least = if order == Order::Tn { 4 } else { 1 };
        let (tallest, widest) = if heavy { (4, 1) } else { (16, 4) };
        if rows <= 16 {
            let height = fit(rows, tallest).max(least);
            return Tile { rows: height, cols4: fit(cols4 / lanes, widest), lane_rows: 1, lane_cols: lanes };
        }
        if cols4 <= 4 {
            let height = fit(rows / (8 * lanes), tallest).max(least);
            return Tile { rows: height, cols4: fit(cols4, widest), lane_rows: lanes, lane_cols: 1 };
        }
        Tile { rows: tallest, cols4: fit(cols4 / (lanes / 2), widest), lane_rows: 2, lane_cols: lanes / 2 }
    }

    fn groups(self, rows: usize, cols: usize) -> [u32; 3] {
        let (height, width) = (self.rows * self.lane_rows, 4 * self.cols4 * self.lane_cols);
        [(rows as u32).div_ceil(height), (cols as u32).div_ceil(width), 1]
    }
}

/// Threads of a workgroup of `matmul` on a CPU (the width of its vectors) and on a GPU.
const LANES_SOFTWARE: u32 = 8;
const LANES: u32 = 64;
/// Rows up to which a GPU uses `matmul`.
const FEW_ROWS: usize = 8;

impl Product {
    /// Length of b's rows.
    fn in_features(&self) -> usize {
        if self.order == Order::Nt { self.depth } else { self.cols }
    }

    /// The dispatch that computes it.
    pub fn launch(self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let dispatch = self.dispatch(cx.target);
        cx.push(dispatch)
    }

    fn dispatch(self, target: &Target) -> Dispatch {
        let whole = |first: usize, stride: usize| first.is_multiple_of(4) && stride.is_multiple_of(4);
        let in_features = self.in_features();
        let mut prelude = Prelude::default()
            .u32("WEIGHT", 3)
            .bool("ACCUMULATE", self.accumulate)
            .bool("DEPTH_TAIL", !self.depth.is_multiple_of(4));
        let mut fragments = vec![fragment!("product")];
        let storage = target.operands != crate::graph::Operands::SampledImages;
        let image = if storage { Access::StorageImage } else { Access::SampledImage };
        let mut bindings = vec![];
        let mut heavy = false;
        let (a_first, a_stride) = match self.a {
            Left::Image => {
                fragments.push(fragment!("a_image"));
                bindings.push((image, Bind::Image(0)));
                (0, 0)
            }
            Left::Buffer(a) => {
                let four = whole(a.first, a.stride);
                heavy |= !four;
                fragments.push(if four { fragment!("a_vec4") } else { fragment!("a_scalar") });
                bindings.push((Access::ReadWrite, a.bind));
                (a.first, a.stride)
            }
        };
        // A group of four columns is stored at once only where all four exist.
        let four = whole(self.y.first, self.y.stride) && self.cols.is_multiple_of(4);
        fragments.push(if four { fragment!("y_vec4") } else { fragment!("y_scalar") });
        bindings.push((Access::ReadWrite, self.y.bind));
        let mut b_first = 0;
        match &self.b {
            Right::Image => {
                fragments.push(fragment!("b_image"));
                bindings.push((image, Bind::Image(1)));
            }
            Right::F32(b) => {
                let four = whole(b.first, in_features);
                heavy |= !four;
                match b.access {
                    Access::Read => fragments.extend(format::four(WeightFormat::F32, four, target.operands)),
                    // Only the sums over tokens come in pieces of a buffer.
                    _ if four => fragments.push(fragment!("b_f32_written")),
                    _ => fragments.extend([fragment!("b_scalar"), fragment!("weight_f32_written")]),
                }
                b_first = b.first;
                bindings.push((b.access, b.bind));
            }
            Right::Weight { format, parts } => {
                let four = in_features.is_multiple_of(4);
                heavy |= !four || *format != WeightFormat::F32;
                fragments.extend(format::four(*format, four, target.operands));
                bindings.extend(parts.iter().map(|&part| (Access::Read, part)));
            }
        }
        if bindings.iter().any(|b| b.0 == image) {
            let operand = if storage { fragment!("operand_storage") } else { fragment!("operand_sampled") };
            fragments.push(operand);
        }
        let params = Params {
            rows: self.rows as u32,
            cols: self.cols as u32,
            depth: self.depth as u32,
            a_first: a_first as u32,
            a_stride: a_stride as u32,
            y_first: self.y.first as u32,
            y_stride: self.y.stride as u32,
            in_features: in_features as u32,
            scale: self.scale,
            b_first: b_first as u32,
            pad: [0; 2],
        };
        let tiled = !target.software && self.rows > FEW_ROWS;
        let mut d = if tiled {
            let large = self.rows >= 256 && self.cols >= 256;
            let (thread_rows, cols4) = if large { (8, 2) } else { (4, 1) };
            prelude = prelude
                .u32("THREAD_ROWS", thread_rows)
                .u32("COLS4", cols4)
                .bool("A_BY_ROWS", self.order != Order::Tn)
                .bool("B_BY_ROWS", self.order == Order::Nt);
            let (height, width) = (16 * thread_rows as usize, 64 * cols4 as usize);
            let groups = [self.rows.div_ceil(height) as u32, self.cols.div_ceil(width) as u32, 1];
            Dispatch::new(shader!("matmul_tiled"), "product").groups(groups)
        } else {
            let lanes = if target.software { LANES_SOFTWARE } else { LANES };
            let tile = Tile::new(self.order, self.rows, self.cols, lanes, heavy);
            prelude = prelude
                .u32("WG_SIZE", lanes)
                .u32("ROWS", tile.rows)
                .u32("ROWS4", tile.rows.div_ceil(4))
                .u32("COLS4", tile.cols4)
                .u32("LANE_ROWS", tile.lane_rows)
                .u32("LANE_COLS", tile.lane_cols);
            let entry = match self.order {
                Order::Nt => "nt",
                Order::Nn => "nn",
                Order::Tn => "tn",
            };
            Dispatch::new(shader!("matmul"), entry).groups(tile.groups(self.rows, self.cols))
        };
        for fragment in fragments {
            prelude = prelude.text(fragment);
        }
        d = d.prelude(prelude).params(&params);
        d.bindings = bindings;
        d.copies = self.copies;
        d.supervised_above = self.supervised_above;
        d
    }
}
