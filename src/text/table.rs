//! Rows of text -> lines that fit a width, in columns of the terminal. Pure. Without a width,
//! everything is shown in full. Cells must be harmless already (see [`super::one_line`]).

use console::measure_text_width as columns_of;

/// The space between two columns.
const GAP: &str = "  ";

/// A path is not shortened to less than this before columns are left out.
const SHORT_PATH: usize = 24;

/// Text with less room than this beside its name stands below it.
const NARROW: usize = 20;

/// A column of a [`listing`].
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its first line.
    pub heading: &'static str,
    /// What becomes of it where there is too little room.
    pub fit: Fit,
}

/// See [`Column::fit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It stays as it is.
    Whole,
    /// It is left out; the highest number first.
    Spare(u8),
    /// Its cells are shortened in their middle.
    Path,
}

/// Headings and rows with aligned columns.
pub fn listing<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let mut widths = columns.map(|column| columns_of(column.heading));
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(columns_of(cell)));
    }
    let mut shown: Vec<usize> = (0..N).collect();
    if let Some(room) = width {
        let least = |at: usize| match columns[at].fit {
            Fit::Path => widths[at].min(SHORT_PATH),
            Fit::Whole | Fit::Spare(_) => widths[at],
        };
        let total =
            |shown: &[usize]| shown.iter().map(|at| least(*at) + GAP.len()).sum::<usize>() - GAP.len();
        let spare = |at: &usize| match columns[*at].fit {
            Fit::Spare(rank) => Some(rank),
            Fit::Whole | Fit::Path => None,
        };
        while total(&shown) > room
            && let Some(going) = shown.iter().copied().filter(|at| spare(at).is_some()).max_by_key(spare)
        {
            shown.retain(|at| *at != going);
        }
        if let Some(path) = shown.iter().copied().find(|at| columns[*at].fit == Fit::Path) {
            let others = total(&shown) - least(path);
            widths[path] =
                widths[path].min(room.saturating_sub(others)).max(columns_of(columns[path].heading));
        }
    }
    let headings = columns.map(|column| column.heading.to_owned());
    let line = |row: &[String; N]| {
        let cells = shown.iter().map(|at| padded(&shortened(&row[*at], widths[*at]), widths[*at]));
        format!("{}\n", cells.collect::<Vec<_>>().join(GAP).trim_end())
    };
    std::iter::once(&headings).chain(rows).map(line).collect()
}

/// Names with their values, which wrap inside of their column.
pub fn facts<N: AsRef<str>>(rows: &[(N, String)], width: Option<usize>) -> String {
    let widest = rows.iter().map(|(name, _)| columns_of(name.as_ref())).max().unwrap_or(0);
    let fact = |(name, value): &(N, String)| {
        hanging(&[padded(name.as_ref(), widest), GAP.to_owned()].concat(), value, width)
    };
    rows.iter().map(fact).collect()
}

/// `front` and the text beside it, whose further lines begin where the first does.
pub fn hanging(front: &str, text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return format!("{}\n", [front, text].concat().trim_end()) };
    let indent = match width.saturating_sub(columns_of(front)) {
        NARROW.. => columns_of(front),
        _ => 2 * GAP.len(),
    };
    let lines = wrapped(text, width.saturating_sub(indent).max(1));
    let below = lines.join(&format!("\n{}", " ".repeat(indent)));
    match indent == columns_of(front) {
        true => format!("{}\n", [front, &*below].concat().trim_end()),
        false => format!("{}\n{}{below}\n", front.trim_end(), " ".repeat(indent)),
    }
}

/// Lines of at most `room` columns, where words allow it, and in longer ones commas, slashes and dashes. Text
/// between backquotes is to be copied, so it stays in one piece.
pub fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words(text) {
        let pieces = match word.contains('`') || columns_of(&word) <= room {
            true => vec![&*word],
            false => word.split_inclusive([',', '/', '-']).collect::<Vec<_>>(),
        };
        for (at, piece) in pieces.iter().enumerate() {
            let space = if at == 0 { " " } else { "" };
            // The pieces of a long word begin on a line of their own.
            let room = if at == 0 && pieces.len() > 1 { 0 } else { room };
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(piece),
                Some(line) if columns_of(line) + space.len() + columns_of(piece) <= room => {
                    line.push_str(space);
                    line.push_str(piece);
                }
                _ => lines.push((*piece).to_owned()),
            }
        }
    }
    lines
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in text.split(' ') {
        match words.last_mut() {
            Some(last) if is_quoted => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        is_quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}

/// The text with spaces up to `width` columns.
pub fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns_of(text))))
}

/// The text in at most `room` columns; of a longer one, a third is from its beginning.
fn shortened(text: &str, room: usize) -> String {
    if columns_of(text) <= room {
        return text.to_owned();
    }
    let room = room.saturating_sub(1);
    let head = first(text.chars(), room / 3);
    let tail = first(text.chars().rev(), room - room / 3);
    let tail = tail.chars().rev().collect::<String>();
    format!("{head}…{tail}")
}

/// As many characters as have room.
fn first(chars: impl Iterator<Item = char>, room: usize) -> String {
    let mut taken = 0;
    let has_room = |c: &char| {
        taken += columns_of(c.encode_utf8(&mut [0; 4]));
        taken <= room
    };
    chars.take_while(has_room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { heading: "PATH", fit: Fit::Path },
        Column { heading: "STATE", fit: Fit::Whole },
        Column { heading: "SIZE", fit: Fit::Spare(1) },
        Column { heading: "NAME", fit: Fit::Spare(2) },
    ];

    fn listed(width: Option<usize>) -> String {
        let row = |cells: [&str; 4]| cells.map(str::to_owned);
        let rows = [
            row(["/home/me/projects/漢字/site/blog", "running", "1.0 MB", "fastbuild-ws-1"]),
            row(["/p", "idle", "?", ""]),
        ];
        listing(&COLUMNS, &rows, width)
    }

    #[test]
    fn columns_are_left_out_and_paths_shortened_until_a_listing_fits() {
        insta::assert_snapshot!(listed(None), @r"
        PATH                              STATE    SIZE    NAME
        /home/me/projects/漢字/site/blog  running  1.0 MB  fastbuild-ws-1
        /p                                idle     ?
        ");
        assert_eq!(listed(Some(80)), listed(None));
        insta::assert_snapshot!(listed(Some(60)), @r"
        PATH                         STATE    SIZE    NAME
        /home/me…cts/漢字/site/blog  running  1.0 MB  fastbuild-ws-1
        /p                           idle     ?
        ");
        insta::assert_snapshot!(listed(Some(40)), @r"
        PATH                             STATE
        /home/me/p…jects/漢字/site/blog  running
        /p                               idle
        ");
        for width in 12..80 {
            assert!(listed(Some(width)).lines().all(|line| columns_of(line) <= width.max(13)), "{width}");
        }
    }

    #[test]
    fn values_wrap_in_their_column_and_what_is_to_be_copied_stays_in_one_piece() {
        let rows = [
            ("to", "one two, three and `do not break this` /a/path/of/many,/names/in/it".to_owned()),
            ("name", String::new()),
        ];
        insta::assert_snapshot!(facts(&rows, Some(30)), @r"
        to    one two, three and
              `do not break this`
              /a/path/of/many,/names/
              in/it
        name
        ");
        assert_eq!(facts(&rows, None).lines().count(), 2);
        assert_eq!(
            hanging("a long name  ", "text of its own", Some(20)),
            "a long name\n    text of its own\n"
        );
        assert_eq!(hanging("a  ", "", Some(80)), "a\n");
    }
}
