//! Ctrl-Z: fastbuild stops as a command would, and its remote work stops with it.
//!
//! Steps that must not be seen half done are finished first ([`Suspension::undisturbed`]). Then the
//! agent is told, which stops the command and all time limits. Then the terminal is given back, and
//! this process stops, so that the shell sees a stopped job.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock},
    time::timeout,
};

use crate::agent::{
    client::{Sender, WeakSender},
    protocol::Request,
};
#[cfg(unix)]
use crate::sys::{process, terminal};

/// How long a blocked connection can delay the stop.
const TELLING: Duration = Duration::from_secs(1);

/// The shared state for a stop. Clones share all of it.
#[derive(Debug, Clone, Default)]
pub struct Suspension(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    disturbance: Arc<RwLock<()>>,
    session: Mutex<Option<WeakSender>>,
}

impl Suspension {
    /// While the guard lives, a stop waits.
    pub async fn undisturbed(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.0.disturbance).read_owned().await
    }

    /// From now on this session is told of stops.
    pub fn tell(&self, session: &Sender) {
        *self.0.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.downgrade());
    }

    fn session(&self) -> Option<Sender> {
        let session = self.0.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.as_ref().and_then(WeakSender::upgrade)
    }

    /// Stops, and returns when fastbuild is continued. If no shell can do that, only the command
    /// continues.
    pub async fn suspend(&self) {
        let alone = self.0.disturbance.write().await;
        #[cfg(unix)]
        if process::is_in_a_job() {
            self.say(&Request::Pause).await;
            terminal::let_go();
            process::stop();
            // The terminal may be gone by now.
            let _ = terminal::take_up();
        }
        // Before data can be sent, because the request must not come in the middle of it.
        self.say(&Request::Resume).await;
        drop(alone);
    }

    async fn say(&self, request: &Request) {
        if let Some(session) = self.session() {
            // A session that is over has nothing to stop; one that is not reached ends like a lost
            // one.
            let _ = timeout(TELLING, session.send(request)).await;
        }
    }
}
