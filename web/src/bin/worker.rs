//! The worker.

fn main() {
    espalier_web::worker::start();
}
