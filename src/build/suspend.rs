//! Ctrl-Z: fastbuild stops as a command would, and what it has under way elsewhere stops with it.
//!
//! What must not be seen half done is finished first ([`Suspension::undisturbed`]); then the agent hears of it, which stops the command and
//! every limit of time; the terminal is given back; and at last this process stops, so that the shell sees a stopped job.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock},
    time::timeout,
};

use crate::agent::{
    near::{Sender, WeakSender},
    protocol::Request,
};
#[cfg(unix)]
use crate::sys::{process, terminal};

/// How long a connection that stands still holds up the stop.
const TELLING: Duration = Duration::from_secs(1);

/// What a stop has to see to. Clones share everything.
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

    /// Stops, and returns when fastbuild has been taken up again. Where nobody could do that, the command alone is taken up.
    pub async fn suspend(&self) {
        let alone = self.0.disturbance.write().await;
        #[cfg(unix)]
        if process::is_in_a_job() {
            self.say(&Request::Pause).await;
            terminal::let_go();
            process::stop();
            // It may be gone meanwhile.
            let _ = terminal::take_up();
        }
        // Before anybody may send data, which it must not come in the middle of.
        self.say(&Request::Resume).await;
        drop(alone);
    }

    async fn say(&self, request: &Request) {
        if let Some(session) = self.session() {
            // A session that is over has nothing to stop; one that does not hear it ends as a lost one does.
            let _ = timeout(TELLING, session.send(request)).await;
        }
    }
}
