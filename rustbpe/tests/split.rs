mod common;
use common::{hostile, Rng, HOSTILE};
use rustbpe::split::{Splitter, SPLIT_PATTERN};

const GPT4: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

fn same(pattern: &str, text: &str) {
    let fast = Splitter::new(pattern).unwrap();
    let slow = Splitter::backtracking(pattern).unwrap();
    assert_eq!(fast.split(text).unwrap(), slow.split(text).unwrap(), "{text:?}");
}

#[test]
fn each_pattern_gets_its_engine() {
    for (pattern, engine) in [
        (SPLIT_PATTERN, "scan"),
        (GPT4, "scan"),
        (GPT2, "linear"),
        (O200K, "linear"),
        (r"\w+|\s+(?!\S)", "backtrack"),
        (r"a*|\s+(?!\S)|\s+", "backtrack"),          // may match nothing
        (r"a++b|\s+(?!\S)|\s+", "backtrack"),        // possessive
        (r"a{2}+b|\s+(?!\S)|\s+", "backtrack"),
        (r"(?x)a # |\s+(?!\S)|\s+", "backtrack"),    // the tail is a comment
        (r"(?i)a|\s+(?!\S)|\s+", "backtrack"),
        (r"[a\]|\s+(?!\S)|\s+]", "backtrack"),       // the tail lies in a class
        (&SPLIT_PATTERN.replace("{1,2}", "{1,12}"), "backtrack"),
    ] {
        assert_eq!(Splitter::new(pattern).unwrap().engine(), engine, "{pattern}");
    }
}

#[test]
fn every_pair_and_triple_of_hostile_pieces() {
    for pattern in [SPLIT_PATTERN, GPT2, O200K] {
        let (fast, slow) = (Splitter::new(pattern).unwrap(), Splitter::backtracking(pattern).unwrap());
        for a in HOSTILE {
            for b in HOSTILE {
                let text = format!("{a}{b}");
                assert_eq!(fast.split(&text).unwrap(), slow.split(&text).unwrap(), "{text:?}");
            }
        }
    }
    for a in HOSTILE.iter().take(30) {
        for b in HOSTILE.iter().take(30) {
            for c in HOSTILE.iter().step_by(3) {
                same_default(&format!("{a}{b}{c}"));
            }
        }
    }
}

fn same_default(text: &str) {
    use std::sync::OnceLock;
    static BOTH: OnceLock<[Splitter; 2]> = OnceLock::new();
    let [fast, slow] = BOTH.get_or_init(|| [Splitter::new(SPLIT_PATTERN).unwrap(), Splitter::backtracking(SPLIT_PATTERN).unwrap()]);
    assert_eq!(fast.split(text).unwrap(), slow.split(text).unwrap(), "{text:?}");
}

#[test]
fn random_hostile_text() {
    let mut rng = Rng(1);
    for _ in 0..3000 {
        let text = hostile(&mut rng, 40);
        same_default(&text);
    }
    for _ in 0..300 {
        let text = hostile(&mut rng, 40);
        for pattern in [GPT4, GPT2, O200K] {
            same(pattern, &text);
        }
    }
}

#[test]
fn every_code_point_has_the_right_class() {
    // alone, after an apostrophe, before and after a letter, between blanks
    for start in (0..0x11_0000u32).step_by(0x400) {
        for frame in ["", "'", " x", "1", "  ", "\n "] {
            let text: String = (start..start + 0x400).filter_map(char::from_u32).flat_map(|c| format!("{frame}{c}").chars().collect::<Vec<_>>()).collect();
            same_default(&text);
        }
    }
}

#[test]
fn long_texts_are_cut_only_where_words_end() {
    let splitter = Splitter::new(SPLIT_PATTERN).unwrap();
    let mut rng = Rng(7);
    let mut cuts = 0;
    for _ in 0..2000 {
        let text = hostile(&mut rng, 60);
        if let Some(cut) = splitter.safe_cut(&text, rng.below(text.len() + 1)) {
            cuts += 1;
            let mut parts = splitter.split(&text[..cut]).unwrap();
            parts.extend(splitter.split(&text[cut..]).unwrap());
            assert_eq!(parts, splitter.split(&text).unwrap(), "{text:?} at {cut}");
        }
    }
    assert!(cuts > 1000);
    assert_eq!(Splitter::new(GPT2).unwrap().safe_cut("one two", 1), None);
}

#[test]
fn blanks_take_linear_time() {
    let text = " ".repeat(2_000_000) + "x" + &"\n ".repeat(1_000_000) + "y";
    assert_eq!(Splitter::new(SPLIT_PATTERN).unwrap().split(&text).unwrap().concat(), text);
    assert_eq!(Splitter::new(GPT2).unwrap().split(&text).unwrap().concat(), text);
}

#[test]
fn errors_name_the_pattern() {
    let bad = Splitter::new("(a").err().unwrap();
    assert!(bad.contains("\"(a\""), "{bad}");
    // runs out of steps: an error, not a word less
    let costly = Splitter::new(r"x|\s+(?!\S)").unwrap();
    assert!(costly.split(&(" ".repeat(2_000_000) + "x")).is_err());
}
