//! Random and hostile text, from a small generator of our own: no dependency, the same texts on every machine.
#![allow(dead_code)]

pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What has broken tokenizers: contractions in odd letters, every kind of blank, runs, marks, digits of other
/// scripts, characters outside of the BMP, combining characters, NUL, byte order mark.
pub const HOSTILE: &[&str] = &[
    " ", " ", "  ", "   ", "\n", "\r", "\r\n", "\n\n", "\t", "\u{0b}", "\u{0c}", "\u{1c}", "\u{85}", "\u{a0}", "\u{2003}", "\u{2028}", "\u{3000}",
    "\u{200b}", "\u{feff}", "\0", "'", "''", "'s", "'S", "'ſ", "'t", "'LL", "'lL", "'l", "'ve", "'Ve", "'re", "'d", "'m", "’s", "K", "ſ", "a", "b",
    "ab", "aa", "aaa", "the", "The", "Ä", "ß", "İ", "é", "e\u{301}", "привет", "你好", "こんにちは", "한국", "ไทย", "हिन्दी", "עברית", "1", "12", "123", "2024",
    "٣", "Ⅷ", "½", "²", "一", "𝟙", "𝔘", "🙂", "👩‍👩‍👧", "🇩🇪", ".", "...", "!?", "=>", "_", "__init__", "-", "--", "$", "€", "\"", "\\", "/", "(", ")", "{}\n", ";\r\n\r\n",
    "\u{301}", "\u{10ffff}", "\u{e000}", "ǅ", "ªº", "ʰ",
];

pub fn hostile(rng: &mut Rng, pieces: usize) -> String {
    (0..rng.below(pieces + 1)).map(|_| *rng.pick(HOSTILE)).collect()
}

/// Few letters, so that pairs overlap and counts tie.
pub fn narrow(rng: &mut Rng, length: usize) -> String {
    let letters = ["a", "b", "c", " "];
    let k = 1 + rng.below(4);
    (0..rng.below(length + 1)).map(|_| letters[rng.below(k)]).collect()
}
