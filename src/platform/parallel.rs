//! Data-parallel loops over slices: on all cores natively, one after the other in a browser (one thread there).
//!
//! Chunks are independent and each is written by one call, so the result never depends on the number of threads.

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;

/// Calls `work(i, chunk i)` for each chunk of `chunk_len` elements of `data`; the last chunk may be shorter.
///
/// # Panics
/// If `chunk_len` is 0.
pub fn chunks_mut<T, F>(data: &mut [T], chunk_len: usize, work: F)
where
    T: Send,
    F: Fn(usize, &mut [T]) + Send + Sync,
{
    #[cfg(not(target_arch = "wasm32"))]
    data.par_chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| work(i, chunk));
    #[cfg(target_arch = "wasm32")]
    data.chunks_mut(chunk_len).enumerate().for_each(|(i, chunk)| work(i, chunk));
}

/// As [`chunks_mut`], for work that can fail: returns one of the errors, if there is any.
pub fn try_chunks_mut<T, E, F>(data: &mut [T], chunk_len: usize, work: F) -> Result<(), E>
where
    T: Send,
    E: Send,
    F: Fn(usize, &mut [T]) -> Result<(), E> + Send + Sync,
{
    #[cfg(not(target_arch = "wasm32"))]
    return data.par_chunks_mut(chunk_len).enumerate().try_for_each(|(i, chunk)| work(i, chunk));
    #[cfg(target_arch = "wasm32")]
    return data.chunks_mut(chunk_len).enumerate().try_for_each(|(i, chunk)| work(i, chunk));
}

/// Calls `work(i, chunk i of a, chunk i of b)` over two slices cut into the same number of chunks, `a` every `a_len`
/// elements and `b` every `b_len`: for instance the codes and the scales of quantized blocks. Stops with the shorter.
///
/// # Panics
/// If `a_len` or `b_len` is 0.
pub fn zip_chunks_mut<A, B, F>(a: &mut [A], a_len: usize, b: &mut [B], b_len: usize, work: F)
where
    A: Send,
    B: Send,
    F: Fn(usize, &mut [A], &mut [B]) + Send + Sync,
{
    #[cfg(not(target_arch = "wasm32"))]
    a.par_chunks_mut(a_len).zip(b.par_chunks_mut(b_len)).enumerate().for_each(|(i, (a, b))| work(i, a, b));
    #[cfg(target_arch = "wasm32")]
    a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).enumerate().for_each(|(i, (a, b))| work(i, a, b));
}

/// `[work(0), work(1), ..., work(count - 1)]`, in that order.
pub fn map<R, F>(count: usize, work: F) -> Vec<R>
where
    R: Send,
    F: Fn(usize) -> R + Send + Sync,
{
    #[cfg(not(target_arch = "wasm32"))]
    return (0..count).into_par_iter().map(work).collect();
    #[cfg(target_arch = "wasm32")]
    return (0..count).map(work).collect();
}

/// How many of these loops' calls run at once.
pub fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    return rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    return 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_visited_once_with_its_index() {
        let mut data = vec![0usize; 1001];
        chunks_mut(&mut data, 10, |i, chunk| chunk.iter_mut().enumerate().for_each(|(j, x)| *x += i * 10 + j));
        assert!(data.iter().copied().eq(0..1001));

        let (mut a, mut b) = (vec![0u8; 64], vec![0f32; 4]);
        zip_chunks_mut(&mut a, 16, &mut b, 1, |i, a, b| {
            a.fill(i as u8);
            b[0] = i as f32;
        });
        assert!(a.iter().enumerate().all(|(at, &x)| x as usize == at / 16));
        assert_eq!(b, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(map(5, |i| i * i), [0, 1, 4, 9, 16]);
    }
}
