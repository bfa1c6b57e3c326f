//! What was measured -> the list of what was promised, and whether it holds. Pure.

use super::{
    Table,
    place::Place,
    row::{Route, Row, State},
};

/// A promise and what became of it; all of them are ratios.
pub struct Figure {
    /// What it is about.
    pub about: String,
    /// What is allowed.
    pub bound: Bound,
    /// What was measured; none when it was not.
    pub measured: Option<f64>,
}

/// On which side of its limit a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// So many times at least.
    AtLeast(f64),
    /// More than so many times.
    Above(f64),
    /// So many times at most.
    AtMost(f64),
}

impl Figure {
    /// Whether it holds; none when it was not measured.
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.bound {
            Bound::AtLeast(limit) => measured >= limit,
            Bound::Above(limit) => measured > limit,
            Bound::AtMost(limit) => measured <= limit,
        })
    }
}

/// All of them.
pub fn figures(tables: &[Table]) -> Vec<Figure> {
    let at = |place: Place| tables.iter().find(|table| table.place == place);
    let ratio = |place: Place, row, base| at(place).and_then(|table| table.ratio(row, base));
    let route = Row::Fastbuild;
    let mut figures = vec![
        Figure {
            about: "sshfs, kept workspace: `mount` against `layer`".to_owned(),
            bound: Bound::AtLeast(3.0),
            measured: ratio(Place::Sshfs, route(Route::Mount, State::Kept), route(Route::Layer, State::Kept)),
        },
        Figure {
            about: "sshfs, one run: `mount` against `layer`".to_owned(),
            bound: Bound::Above(1.0),
            measured: ratio(
                Place::Sshfs,
                route(Route::Mount, State::OneRun),
                route(Route::Layer, State::OneRun),
            ),
        },
        Figure {
            about: "local disk, kept workspace: a plain fastbuild against `docker run` with a bind mount"
                .to_owned(),
            bound: Bound::AtMost(1.05),
            measured: ratio(Place::Local, route(Route::Auto, State::Kept), Row::Mounted),
        },
    ];
    figures.extend(Place::ALL.map(|place| {
        let auto = at(place).and_then(|table| table.auto.as_ref().ok());
        Figure {
            about: format!("{}: what `bench --save` picks against the fastest that it found", place.name()),
            bound: Bound::AtMost(1.1),
            measured: auto.and_then(super::auto::Auto::against_fastest),
        }
    }));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_limit_is_met_unless_more_is_wanted() {
        let met = |bound, measured| Figure { about: String::new(), bound, measured }.met();
        for (bound, measured, expected) in [
            (Bound::AtLeast(3.0), Some(3.0), Some(true)),
            (Bound::AtLeast(3.0), Some(2.99), Some(false)),
            (Bound::Above(1.0), Some(1.0), Some(false)),
            (Bound::AtMost(1.05), Some(1.05), Some(true)),
            (Bound::AtMost(1.05), Some(1.051), Some(false)),
            (Bound::AtMost(1.05), None, None),
        ] {
            assert_eq!(met(bound, measured), expected, "{bound:?} {measured:?}");
        }
    }

    #[test]
    fn without_measurements_nothing_is_met_and_nothing_missed() {
        assert!(figures(&[]).iter().all(|figure| figure.met().is_none()));
    }
}
