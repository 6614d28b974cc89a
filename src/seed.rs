//! Random numbers that depend on a seed and a name only, whatever else is drawn.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use sha2::Digest;

/// A generator for one named thing (a tensor's first values, the order of an epoch).
pub fn named_rng(seed: u64, name: &str) -> ChaCha12Rng {
    let mut hash = sha2::Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    ChaCha12Rng::from_seed(hash.finalize().into())
}
