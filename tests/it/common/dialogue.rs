//! Holds the dialogue of a build with its workspace's agent at a place of its own choosing, so that a test can be *at* a
//! phase: all but the last byte of a frame has arrived, and nothing goes on until the test says so.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use fastbuild::agent::{
    frame::{Decoder, End, Received},
    protocol::{Reply, Request, decode},
};

use super::proxy::{Fault, Hold, Proxy, Then, Way, Which};

/// A place in the dialogue: what is held back.
#[derive(Clone, Copy)]
pub enum Place {
    /// A request to the agent.
    Request(fn(&Request) -> bool),
    /// An answer of the agent's.
    Reply(fn(&Reply) -> bool),
    /// Data to the agent, when so many bytes of it have passed.
    DataUp(usize),
    /// Data from the agent, when so many bytes of it have passed.
    DataDown(usize),
    /// The end of a stream from the agent, when so many bytes have passed.
    EndOfData(usize),
    /// Output of the command.
    Output,
}

/// One dialogue that is held.
pub struct Held {
    place: Place,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    up: Decoder,
    /// None until the client has said who it is.
    down: Option<Decoder>,
    mux: Mux,
    data_up: usize,
    data_down: usize,
    reached: bool,
    then: Option<Then>,
}

impl Held {
    /// Holds the next dialogue that is opened by way of `proxy`.
    pub fn next(proxy: &Proxy, place: Place) -> Arc<Held> {
        let state = State {
            up: Decoder::new(End::Far),
            down: None,
            mux: Mux::default(),
            data_up: 0,
            data_down: 0,
            reached: false,
            then: None,
        };
        let held = Arc::new(Held { place, state: Mutex::new(state), changed: Condvar::new() });
        let hold: Arc<dyn Hold> = Arc::clone(&held) as _;
        proxy.on("POST", "/attach", Which::Nth(1), Fault::Hold(hold));
        held
    }

    /// Waits until the dialogue has come to the place.
    #[track_caller]
    pub fn reached(&self) {
        let patience = Duration::from_secs(60);
        let (state, _) =
            self.changed.wait_timeout_while(self.lock(), patience, |state| !state.reached).unwrap();
        assert!(state.reached, "the dialogue never came to its place");
    }

    /// Says what becomes of what is held.
    pub fn then(&self, then: Then) {
        self.lock().then = Some(then);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Hold for Held {
    fn let_pass(&self, way: Way, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        if state.reached {
            return bytes.len();
        }
        // One by one: what is in front of the place must go on.
        let held = (0..bytes.len()).find(|at| state.pass(way, bytes[*at], self.place));
        state.reached = held.is_some();
        self.changed.notify_all();
        held.unwrap_or(bytes.len())
    }

    fn wait(&self) -> Then {
        let state = self.changed.wait_while(self.lock(), |state| state.then.is_none()).unwrap();
        state.then.unwrap()
    }
}

impl State {
    /// Whether this byte is the last of what is to be held back.
    fn pass(&mut self, way: Way, byte: u8, place: Place) -> bool {
        let decoder = match way {
            Way::Up => &mut self.up,
            Way::Down => match self.mux.pass(byte).then_some(self.down.as_mut()).flatten() {
                Some(decoder) => decoder,
                None => return false,
            },
        };
        decoder.push(&[byte]);
        let Some(received) = decoder.next_received().unwrap() else { return false };
        match (way, received) {
            (Way::Up, Received::Hello { nonce, .. }) => {
                self.down = Some(Decoder::new(End::Near(nonce)));
                false
            }
            (Way::Up, Received::Message(message)) => {
                matches!(place, Place::Request(is) if is(&decode(&message).unwrap()))
            }
            (Way::Up, Received::Data(bytes)) => {
                self.data_up += bytes.len();
                matches!(place, Place::DataUp(size) if self.data_up > size)
            }
            (Way::Down, Received::Message(message)) => {
                matches!(place, Place::Reply(is) if is(&decode(&message).unwrap()))
            }
            (Way::Down, Received::Data(bytes)) => {
                self.data_down += bytes.len();
                matches!(place, Place::DataDown(size) if self.data_down > size)
            }
            (Way::Down, Received::DataEnd) => {
                matches!(place, Place::EndOfData(size) if self.data_down > size)
            }
            (Way::Down, Received::Stdout(_)) => matches!(place, Place::Output),
            _ => false,
        }
    }
}

/// What an engine puts around the output of a process without a terminal: eight bytes before each piece, the stream's
/// number first, the piece's length last.
#[derive(Default)]
struct Mux {
    header: Vec<u8>,
    left: u32,
}

impl Mux {
    /// Whether this byte is one of the process's standard output.
    fn pass(&mut self, byte: u8) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return self.header[0] == 1;
        }
        if self.header.len() == 8 {
            self.header.clear();
        }
        self.header.push(byte);
        if let [_, _, _, _, a, b, c, d] = self.header[..] {
            self.left = u32::from_be_bytes([a, b, c, d]);
        }
        false
    }
}
