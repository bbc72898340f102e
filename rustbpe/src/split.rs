//! Cutting text into words: three engines behind one door, all with the same answer.
//!
//! * The default pattern (and its sisters with other groups of digits) has a hand-written scanner.
//! * A pattern that ends in `|\s+(?!\S)|\s+` needs look-ahead only to give back one blank; that rule is done by
//!   hand and the rest by an automaton in linear time.
//! * Everything else goes to fancy-regex, which backtracks.

use crate::Error;
use regex_automata::{meta, Input};
use std::sync::OnceLock;

/// The default: GPT-4's pattern with digits in groups of at most two.
pub const SPLIT_PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The end of all patterns of the GPT family: blanks before a word leave it its own blank.
const BLANKS: &str = r"|\s+(?!\S)|\s+";

pub enum Splitter {
    Scan(Scanner),
    Linear(meta::Regex),
    Backtrack(Box<fancy_regex::Regex>),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, Error> {
        if let Some(digits) = digits_of(pattern) {
            return Ok(Splitter::Scan(Scanner::new(digits)));
        }
        match linear(pattern) {
            Some(re) => Ok(Splitter::Linear(re)),
            None => Self::backtracking(pattern),
        }
    }

    /// The engine that takes any pattern; the other two are tested against it.
    pub fn backtracking(pattern: &str) -> Result<Self, Error> {
        let re = fancy_regex::Regex::new(pattern).map_err(|e| format!("split pattern {pattern:?}: {e}"))?;
        Ok(Splitter::Backtrack(Box::new(re)))
    }

    pub fn engine(&self) -> &'static str {
        match self {
            Splitter::Scan(_) => "scan",
            Splitter::Linear(_) => "linear",
            Splitter::Backtrack(_) => "backtrack",
        }
    }

    /// Call `word` with each piece of `text`, in order. What no alternative matches is left out, as `findall` does.
    pub fn for_each<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) -> Result<(), Error> {
        match self {
            Splitter::Scan(scanner) => {
                let mut i = 0;
                while i < text.len() {
                    let j = scanner.word_end(text.as_bytes(), i);
                    word(&text[i..j]);
                    i = j;
                }
            }
            Splitter::Linear(re) => {
                let mut start = 0;
                while let Some(m) = re.find(Input::new(text).range(start..)) {
                    let mut end = m.end();
                    // the second pattern is `\s+`: unless the text ends here, the last blank belongs to what follows
                    if m.pattern().as_usize() == 1 && end < text.len() {
                        let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
                        if end - last > m.start() {
                            end -= last;
                        }
                    }
                    word(&text[m.start()..end]);
                    start = end;
                }
            }
            Splitter::Backtrack(re) => {
                for m in re.find_iter(text) {
                    word(m.map_err(|e| format!("split pattern {:?}: {e}", re.as_str()))?.as_str());
                }
            }
        }
        Ok(())
    }

    pub fn split<'t>(&self, text: &'t str) -> Result<Vec<&'t str>, Error> {
        let mut words = Vec::new();
        self.for_each(text, |w| words.push(w))?;
        Ok(words)
    }

    /// A place at or after `from` where every split of `text` has a cut, whatever stands around it; lets one long
    /// text go to several threads. Known only for the scanner: no word goes on from a letter to a non-letter.
    pub fn safe_cut(&self, text: &str, from: usize) -> Option<usize> {
        let Splitter::Scan(_) = self else { return None };
        let s = text.as_bytes();
        (from.max(1)..s.len()).find(|&i| s[i - 1].is_ascii_alphabetic() && s[i].is_ascii() && !s[i].is_ascii_alphabetic())
    }
}

/// The k of `\p{N}{1,k}` if the pattern is the default one but for it.
fn digits_of(pattern: &str) -> Option<usize> {
    let (head, tail) = SPLIT_PATTERN.split_once("{1,2}")?;
    let k = pattern.strip_prefix(head)?.strip_prefix("{1,")?.strip_suffix(tail)?.strip_suffix('}')?;
    matches!(k.as_bytes(), [b'1'..=b'9']).then(|| usize::from(k.as_bytes()[0] - b'0'))
}

/// `prefix|\s+(?!\S)|\s+` as two patterns, `prefix` preferred, if the automaton understands `prefix` as fancy-regex does.
fn linear(pattern: &str) -> Option<meta::Regex> {
    let prefix = pattern.strip_suffix(BLANKS)?;
    // `x++` is possessive there and `(x+)+` here; a flag such as (?x) would reach into the tail; `{,3}` differs
    let strange = ["?+", "*+", "++", "{,"].iter().any(|s| prefix.contains(s)) || counted_possessive(prefix);
    let flags = prefix.match_indices("(?").any(|(i, _)| {
        let rest = prefix[i + 2..].trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '-');
        rest.starts_with(')')
    });
    if strange || flags {
        return None;
    }
    let hir = regex_syntax::Parser::new().parse(prefix).ok()?;
    if hir.properties().minimum_len().unwrap_or(0) == 0 {
        return None; // how to go on after an empty match is each engine's own custom
    }
    meta::Regex::builder().build_many(&[prefix, r"\s+"]).ok()
}

/// Is there an `x{2,3}+`? (Not `\p{L}+`, which is plain.)
fn counted_possessive(pattern: &str) -> bool {
    pattern.match_indices("}+").any(|(end, _)| {
        let inside = pattern[..end].rsplit('{').next().unwrap_or("");
        inside.bytes().all(|b| b.is_ascii_digit() || b == b',')
    })
}

/// What the default pattern can tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Class {
    Other = 0,
    Letter = 1,
    Number = 2,
    Blank = 3,
    Newline = 4,
    End = 5,
}
use Class::*;

/// The default pattern by hand: looks at each character about once and never goes back.
pub struct Scanner {
    digits: usize,
    table: &'static [Class],
}

impl Scanner {
    pub fn new(digits: usize) -> Self {
        Scanner { digits, table: classes() }
    }

    /// The class of the character at byte `i`, and its length in bytes.
    #[inline(always)]
    fn at(&self, s: &[u8], i: usize) -> (Class, usize) {
        match s.get(i) {
            None => (End, 0),
            Some(&b) if b < 128 => (self.table[b as usize], 1),
            Some(_) => self.at_wide(s, i),
        }
    }

    fn at_wide(&self, s: &[u8], i: usize) -> (Class, usize) {
        let low = |k: usize| u32::from(s[i + k] & 0x3f);
        let (c, n) = match s[i] {
            b @ 0..=0xdf => (u32::from(b & 0x1f) << 6 | low(1), 2),
            b @ 0xe0..=0xef => (u32::from(b & 0x0f) << 12 | low(1) << 6 | low(2), 3),
            b => (u32::from(b & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        };
        (self.table[c as usize], n)
    }

    /// The end of the run of `class` from `i` on.
    #[inline(always)]
    fn run(&self, s: &[u8], mut i: usize, class: Class) -> usize {
        loop {
            match self.at(s, i) {
                (c, n) if c == class => i += n,
                _ => return i,
            }
        }
    }

    /// The end of the word that begins at `i`: the alternatives of the pattern in their order.
    #[inline]
    fn word_end(&self, s: &[u8], i: usize) -> usize {
        let (class, n) = self.at(s, i);
        if class == Letter {
            return self.run(s, i + n, Letter); //                             [^\r\n\p{L}\p{N}]?+\p{L}+   without its first part
        }
        if s[i] == b'\'' {
            if let Some(k) = suffix(&s[i + 1..]) {
                return i + 1 + k; //                                          '(?i:[sdmt]|ll|ve|re)
            }
        }
        let next = i + n;
        match class {
            Number => {
                let mut j = next; //                                          \p{N}{1,2}
                for _ in 1..self.digits {
                    match self.at(s, j) {
                        (Number, m) => j += m,
                        _ => break,
                    }
                }
                j
            }
            Newline => self.blanks(s, i),
            _ => match self.at(s, next) {
                (Letter, m) => self.run(s, next + m, Letter), //              [^\r\n\p{L}\p{N}]?+\p{L}+   with it
                (Other, m) if s[i] == b' ' => self.symbols(s, next + m), //   ` ?[^\s\p{L}\p{N}]++[\r\n]*` with its blank
                _ if class == Other => self.symbols(s, next), //              and without
                _ => self.blanks(s, i),
            },
        }
    }

    fn symbols(&self, s: &[u8], i: usize) -> usize {
        let j = self.run(s, i, Other);
        self.run(s, j, Newline)
    }

    /// `\s*[\r\n]|\s+(?!\S)|\s+`: up to the last newline of the run; else all of it, but for the one
    /// blank that the next word will want; else that blank alone.
    fn blanks(&self, s: &[u8], i: usize) -> usize {
        let (mut j, mut last, mut newline) = (i, i, None);
        loop {
            match self.at(s, j) {
                (Newline, n) => newline = Some(j + n),
                (Blank, _) => (),
                (End, _) => return newline.unwrap_or(j),
                _ => return newline.unwrap_or(if last > i { last } else { j }),
            }
            last = j;
            j += self.at(s, j).1;
        }
    }
}

/// How long the rest of a contraction is, the apostrophe taken. U+017F folds to s, as `(?i:s)` has it.
fn suffix(s: &[u8]) -> Option<usize> {
    match s {
        [b's' | b'S' | b'd' | b'D' | b'm' | b'M' | b't' | b'T', ..] => Some(1),
        [b'l' | b'L', b'l' | b'L', ..] | [b'v' | b'V', b'e' | b'E', ..] | [b'r' | b'R', b'e' | b'E', ..] => Some(2),
        [0xc5, 0xbf, ..] => Some(2),
        _ => None,
    }
}

/// The class of every code point, from the regex crate's own Unicode tables; made once, 1.1 MB.
fn classes() -> &'static [Class] {
    static TABLE: OnceLock<Vec<Class>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = vec![Other; 0x11_0000];
        for (pattern, class) in [(r"\p{L}", Letter), (r"\p{N}", Number), (r"\s", Blank), (r"[\r\n]", Newline)] {
            let hir = regex_syntax::Parser::new().parse(pattern).expect("a fixed pattern");
            let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(set)) = hir.kind() else {
                unreachable!("a class of characters")
            };
            for r in set.ranges() {
                table[r.start() as usize..=r.end() as usize].fill(class);
            }
        }
        table
    })
}
