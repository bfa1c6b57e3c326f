//! `PullProgress` events -> the state of a pull, for each layer and in total. Pure.

use super::events::Event;
use crate::text::numbers;

/// The limit for layers. An engine that names more than an image can have is not telling the truth.
const MOST_LAYERS: usize = 1_000;

/// One layer. Its byte count for the total never decreases: extracting starts again from zero, but
/// users want to know how much arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The engine's id.
    pub id: String,
    /// The current step, in the engine's words.
    pub status: String,
    /// Bytes done in the current status.
    pub current: u64,
    /// Bytes in total, if known.
    pub total: Option<u64>,
    most: u64,
}

impl Layer {
    fn is_done(&self) -> bool {
        ["Pull complete", "Already exists"].iter().any(|done| self.status.starts_with(done))
    }
}

/// The layers of the image being pulled, in the order in which the engine named them.
#[derive(Debug, Default)]
pub struct Layers(Vec<Layer>);

impl Layers {
    /// Takes every event and keeps those about layers.
    pub fn note(&mut self, event: &Event) {
        let Event::PullProgress { layer, status, current, total } = event else { return };
        if layer.is_empty() {
            return;
        }
        let at = self.0.iter().position(|known| known.id == *layer).or_else(|| self.push(layer));
        let Some(known) = at.map(|at| &mut self.0[at]) else { return };
        known.status.clone_from(status);
        known.current = *current;
        known.total = total.or(known.total);
        known.most = known.most.max(*current);
    }

    fn push(&mut self, id: &str) -> Option<usize> {
        let layer = Layer { id: id.to_owned(), status: String::new(), current: 0, total: None, most: 0 };
        (self.0.len() < MOST_LAYERS).then(|| self.0.push(layer))?;
        Some(self.0.len() - 1)
    }

    /// The layers in progress.
    pub fn active(&self) -> impl Iterator<Item = &Layer> {
        self.0.iter().filter(|layer| !layer.is_done() && layer.current > 0)
    }

    /// The bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|layer| layer.most).sum()
    }

    /// `2 of 7 layers, 20.1 MB of 60.0 MB`. The total covers the layers whose size is known by now.
    pub fn text(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let done = self.0.iter().filter(|layer| layer.is_done()).count() as u64;
        let layers =
            format!("{} of {}", numbers::count(done), numbers::counted(self.0.len() as u64, "layer"));
        let total: u64 = self.0.iter().map(|layer| layer.total.unwrap_or(0).max(layer.most)).sum();
        if total == 0 {
            return layers;
        }
        format!("{layers}, {} of {}", numbers::bytes(self.bytes()), numbers::bytes(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(layers: &mut Layers, layer: &str, status: &str, current: u64, total: Option<u64>) {
        layers.note(&Event::PullProgress { layer: layer.into(), status: status.into(), current, total });
    }

    #[test]
    fn extracting_does_not_take_back_what_arrived() {
        let mut layers = Layers::default();
        pull(&mut layers, "", "Pulling from x", 0, None);
        pull(&mut layers, "a", "Downloading", 60_000_000, Some(60_000_000));
        pull(&mut layers, "b", "Already exists", 0, None);
        pull(&mut layers, "a", "Extracting", 1_000_000, Some(60_000_000));
        assert_eq!(layers.text(), "1 of 2 layers, 60.0 MB of 60.0 MB");
        let active: Vec<_> = layers.active().map(|layer| layer.id.as_str()).collect();
        assert_eq!(active, ["a"]);
    }

    #[test]
    fn invented_layers_do_not_fill_memory() {
        let mut layers = Layers::default();
        for n in 0..5_000 {
            pull(&mut layers, &n.to_string(), "Waiting", 0, None);
        }
        assert_eq!(layers.text(), "0 of 1,000 layers");
    }
}
