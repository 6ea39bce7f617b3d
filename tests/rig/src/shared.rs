//! One rig for all tests of a program.

use std::sync::OnceLock;

use crate::rig::Rig;

static SHARED: OnceLock<Rig> = OnceLock::new();

/// The rig of this process. A test harness never drops a static, so the servers are stopped when it exits.
///
/// # Panics
///
/// If not even the certificates can be made: there is nothing to test with then.
pub(crate) fn rig() -> &'static Rig {
    SHARED.get_or_init(|| {
        let rig = Rig::new().unwrap_or_else(|err| panic!("the rig cannot be set up: {err}"));
        // SAFETY: registers a plain function that touches nothing but the static above. The threads that it
        // needs, those waiting for the servers, are still alive when it runs.
        #[expect(
            unsafe_code,
            reason = "the only hook at the end of a program whose main is not ours"
        )]
        unsafe {
            libc::atexit(at_exit);
        }
        rig
    })
}

extern "C" fn at_exit() {
    if let Some(rig) = SHARED.get() {
        rig.shut_down();
    }
}
