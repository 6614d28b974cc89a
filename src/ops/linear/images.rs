//! Products on software adapters. Such an adapter runs a kernel on vectors of the CPU, and reads a buffer value by value, with a
//! bounds test each; a texel of an image it reads as four values at once. So operands are copied into two images, piece by
//! piece: the left one in chunks of rows, the right one in panels of rows, which are decoded to f32 in a small scratch buffer
//! first where the weight is quantized. Copies are plain `memcpy` there: about 3 % of a product with 128 rows.

use std::ops::Range;

use super::format;
use super::product::{Left, Matrix, Order, Product, Right};
use crate::gpu::{Access, Prelude};
use crate::graph::{Operands, Role, Target, Tensor};
use crate::ops::launch::Copy;
use crate::ops::{Bind, Dispatch, LaunchContext};
use crate::quant::WeightFormat;
use crate::{Result, shader};

/// Bytes of a panel or chunk, at most (but for 64 rows, which it always has).
const PIECE_BYTES: usize = 2 << 20;
/// Values in a row of an image, at most: 8192 texels.
const LONGEST: usize = 4 * 8192;
/// Copies start at multiples of 256 bytes in every row, so a matrix must have rows of a multiple of 64 values.
const ROW_UNIT: usize = 64;
/// Sums with fewer terms, and products with fewer rows, are not worth a copy.
const MIN_DEPTH: usize = 32;
const MIN_ROWS: usize = 16;

fn fits(first: usize, stride: usize, used: usize) -> bool {
    first.is_multiple_of(4) && stride.is_multiple_of(ROW_UNIT) && used.is_multiple_of(4) && used <= LONGEST
}

/// Rows of a piece with rows of `values`.
fn piece_rows(values: usize) -> usize {
    (PIECE_BYTES / (4 * values) / 64 * 64).clamp(64, 2048)
}

/// Whether a product of `rows` rows with this weight decodes it panel by panel into a scratch buffer; bytes of that.
pub fn panel_bytes(weight: &Tensor, rows: usize, target: &Target) -> Option<u64> {
    let decoded = matches!(weight.role, Role::Weight(format) if format != WeightFormat::F32);
    let cols = weight.cols();
    let images = target.operands != Operands::Buffers && rows >= MIN_ROWS && fits(0, cols, cols);
    (decoded && images).then(|| 4 * (cols * piece_rows(cols).min(weight.rows())) as u64)
}

/// Pieces of `0..length`, `step` long.
fn pieces(length: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(step).map(move |start| start..length.min(start + step))
}

/// A matrix's rows and columns into an image.
fn copy(from: Matrix, rows: Range<usize>, cols: Range<usize>, image: usize) -> Copy {
    Copy {
        from: from.bind,
        offset: 4 * (from.first + rows.start * from.stride + cols.start) as u64,
        pitch: 4 * from.stride as u32,
        image,
        width: cols.len() as u32 / 4,
        height: rows.len() as u32,
    }
}

/// Decodes rows of a weight into a panel, unless they are f32: the matrix that holds them.
fn decode(
    cx: &mut LaunchContext<'_>,
    (format, parts): (WeightFormat, &[Bind]),
    panel: Bind,
    rows: Range<usize>,
    cols: usize,
    supervised_above: Option<u32>,
) -> Result<Matrix> {
    /// Units a thread decodes: starting a workgroup costs about as much as one of them.
    const UNITS: u32 = 16;
    const WG_SIZE: u32 = 8;
    let Some((fragments, unit_parts)) = format::unit(format, cx.target.operands) else {
        return Ok(Matrix { bind: parts[0], access: Access::Read, first: rows.start * cols, stride: cols });
    };
    let unit = 4 * unit_parts as usize;
    let units = (rows.len() * cols / unit) as u32;
    let mut prelude =
        Prelude::default().u32("WG_SIZE", WG_SIZE).u32("UNITS", UNITS).u32("PARTS", unit_parts).u32("WEIGHT", 2);
    for fragment in fragments {
        prelude = prelude.text(fragment);
    }
    let mut d = Dispatch::new(shader!("dequantize"), "dequantize")
        .prelude(prelude)
        .params(&[(rows.start * cols / unit) as u32, units, cols as u32, 0])
        .write(panel)
        .groups([units.div_ceil(UNITS * WG_SIZE), 1, 1]);
    for &part in parts {
        d = d.read(part);
    }
    d.supervised_above = supervised_above;
    cx.push(d)?;
    Ok(Matrix { bind: panel, access: Access::ReadWrite, first: 0, stride: cols })
}

/// Launches a product, with its operands in images where that pays. `panel` is a scratch buffer of [`panel_bytes`].
pub fn launch(cx: &mut LaunchContext<'_>, product: Product, panel: Bind) -> Result<()> {
    let (order, rows, cols, depth) = (product.order, product.rows, product.cols, product.depth);
    let tokens = if order == Order::Tn { depth } else { rows };
    if cx.target.operands == Operands::Buffers || tokens < MIN_ROWS || depth < MIN_DEPTH {
        return product.launch(cx);
    }
    let (b_rows, b_cols) = if order == Order::Nt { (cols, depth) } else { (depth, cols) };
    let right = match &product.b {
        Right::F32(b) => fits(b.first, b_cols, b_cols),
        Right::Weight { .. } => fits(0, b_cols, b_cols),
        Right::Image => false,
    };
    // b in panels of rows: columns of y for a b^T, terms of the sum otherwise.
    let panel_rows = if right { piece_rows(b_cols) } else { b_rows };
    // The columns of a that lie in its image at once.
    let a_used = match order {
        Order::Nt => depth,
        Order::Nn => depth.min(panel_rows),
        Order::Tn => rows.min(LONGEST),
    };
    let left = match product.a {
        Left::Buffer(a) => fits(a.first, a.stride, a_used) && (order == Order::Tn || depth.is_multiple_of(4)),
        Left::Image => false,
    };
    if !left && !right {
        return product.launch(cx);
    }
    // The terms of a^T b run along the rows of both.
    let step = if order == Order::Tn && left { panel_rows.min(piece_rows(a_used)) } else { panel_rows };
    for b_piece in pieces(b_rows, step.max(1)) {
        let mut with_b = product.clone();
        match order {
            Order::Nt => {
                with_b.cols = b_piece.len();
                with_b.y.first += b_piece.start;
            }
            Order::Nn | Order::Tn => {
                with_b.depth = b_piece.len();
                with_b.accumulate |= b_piece.start > 0;
                if let Left::Buffer(a) = &mut with_b.a {
                    a.first += b_piece.start * if order == Order::Nn { 1 } else { a.stride };
                }
                if let Right::F32(b) = &mut with_b.b {
                    b.first += b_piece.start * b_cols;
                }
            }
        }
        if right {
            let piece = match &product.b {
                Right::F32(b) => Matrix { first: b.first + b_piece.start * b_cols, ..*b },
                Right::Weight { format, parts } => {
                    decode(cx, (*format, parts), panel, b_piece.clone(), b_cols, product.supervised_above)?
                }
                Right::Image => unreachable!("operands start in buffers"),
            };
            with_b.copies.push(copy(piece, 0..b_piece.len(), 0..b_cols, 1));
            with_b.b = Right::Image;
        }
        launch_left(cx, with_b, left)?;
    }
    Ok(())
}

/// The rest of [`launch`]: a in chunks of rows, or of columns for `a^T b`.
fn launch_left(cx: &mut LaunchContext<'_>, product: Product, image: bool) -> Result<()> {
    let Left::Buffer(a) = product.a else { return product.launch(cx) };
    if !image {
        return product.launch(cx);
    }
    let step = if product.order == Order::Tn { LONGEST } else { piece_rows(product.depth) };
    let mut copies = product.copies.clone();
    for chunk in pieces(product.rows, step) {
        let mut part = product.clone();
        part.rows = chunk.len();
        part.y.first += chunk.start * part.y.stride;
        part.copies = std::mem::take(&mut copies);
        part.copies.push(match product.order {
            Order::Tn => copy(a, 0..product.depth, chunk.clone(), 0),
            _ => copy(a, chunk.clone(), 0..product.depth, 0),
        });
        part.a = Left::Image;
        part.launch(cx)?;
    }
    Ok(())
}
