//! The worker: holds the GPU, the model, the data and the run, and does what the page's commands say.
