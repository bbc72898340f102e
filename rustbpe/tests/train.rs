mod common;
use common::{hostile, narrow, Rng};
use rustbpe::{
    count::{count_words, Batch, CountError, WordCounts},
    encode::Encoder,
    split::{Splitter, SPLIT_PATTERN},
    train::{learn_merges, merge, Pair, Words},
    Error,
};
use std::collections::HashMap;

fn train(texts: &[String], vocab_size: u32, threads: usize) -> Vec<Pair> {
    let splitter = Splitter::new(SPLIT_PATTERN).unwrap();
    let mut rest = texts.iter();
    let feed = |batch: &mut Batch| -> Result<bool, Error> {
        rest.by_ref().take(3).for_each(|t| batch.push(&splitter, t));
        Ok(rest.len() > 0)
    };
    let Ok(counts) = count_words(&splitter, threads, feed) else { panic!("no error can come") };
    learn_merges::<Error>(counts, vocab_size, |_, _| Ok(())).unwrap()
}

/// Chapter 01's first trainer: recount everything before each merge.
fn naive(texts: &[String], vocab_size: u32) -> Vec<Pair> {
    let splitter = Splitter::backtracking(SPLIT_PATTERN).unwrap();
    let mut words: Vec<Vec<u32>> = Vec::new();
    for t in texts {
        words.extend(splitter.split(t).unwrap().iter().map(|w| w.bytes().map(u32::from).collect::<Vec<_>>()));
    }
    let mut merges = Vec::new();
    for new in 256..vocab_size {
        let mut counts: HashMap<Pair, i64> = HashMap::new();
        words.iter().flat_map(|w| w.windows(2)).for_each(|p| *counts.entry((p[0], p[1])).or_default() += 1);
        let Some((&(a, b), _)) = counts.iter().max_by_key(|&(&p, &n)| (n, std::cmp::Reverse(p))) else { break };
        merges.push((a, b));
        for w in &mut words {
            let (mut out, mut i) = (Vec::new(), 0);
            while i < w.len() {
                let hit = i + 1 < w.len() && (w[i], w[i + 1]) == (a, b);
                out.push(if hit { new } else { w[i] });
                i += 1 + usize::from(hit);
            }
            *w = out;
        }
    }
    merges
}

#[test]
fn merges_equal_the_naive_trainer() {
    let mut rng = Rng(3);
    for round in 0..400 {
        let texts: Vec<String> =
            (0..1 + rng.below(8)).map(|_| if round % 2 == 0 { hostile(&mut rng, 30) } else { narrow(&mut rng, 60) }).collect();
        let size = 256 + rng.below(80) as u32;
        assert_eq!(train(&texts, size, 1 + round % 3), naive(&texts, size), "{texts:?} {size}");
    }
}

#[test]
fn overlapping_pairs_and_ties() {
    assert_eq!(train(&["aaaaaaa".into()], 300, 1), [(97, 97), (256, 256), (256, 97), (257, 258)]);
    assert_eq!(train(&["ba cd".into()], 257, 1), [(32, 99)]); // ` c`, `ba`, `cd` once each: the smallest pair of ids
    assert_eq!(train(&["x".into()], 300, 1), []);
    assert_eq!(train(&[], 300, 2), []);
}

#[test]
fn merge_reports_what_it_changes() {
    let mut words = Words::new([(&b"aabab"[..], 10)].into_iter()).unwrap();
    let mut seen: HashMap<Pair, i64> = HashMap::new();
    merge(&mut words, &[2, 4], (97, 98), 256, |p, _, n| *seen.entry(p).or_default() += n);
    seen.retain(|_, n| *n != 0);
    // a ab ab: gone are a-a and b-a, new are a-256 and 256-256
    assert_eq!(seen, HashMap::from([((97, 97), -10), ((98, 97), -10), ((97, 256), 10), ((256, 256), 10)]));
}

#[test]
fn counts_do_not_overflow_32_bits() {
    let mut words = WordCounts::default();
    words.add(b"ab", 3_000_000_000);
    words.add(b"ab", 3_000_000_000);
    words.add(b"cd", 5_999_999_999);
    assert_eq!(learn_merges::<Error>(vec![words], 258, |_, _| Ok(())).unwrap(), [(97, 98), (99, 100)]);
}

#[test]
fn threads_do_not_change_the_counts() {
    let mut rng = Rng(5);
    let mut texts: Vec<String> = (0..2000).map(|_| hostile(&mut rng, 200)).collect();
    texts.push(texts.concat().repeat(3)); // one long text, which is cut for the threads
    let all: Vec<_> = [1, 2, 7].iter().map(|&n| train(&texts, 400, n)).collect();
    assert!(all[0].len() == 144 && all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn many_distinct_words_pass_through_the_common_table() {
    // more than a thread keeps for itself
    let text: String = (0..200_000u32).map(|i| format!(" {}", (0..4).map(|k| char::from(b'a' + (i >> (5 * k)) as u8 % 26)).collect::<String>())).collect();
    let splitter = Splitter::new(SPLIT_PATTERN).unwrap();
    let mut once = Some(text.clone());
    let feed = |b: &mut Batch| -> Result<bool, Error> { Ok({ if let Some(t) = once.take() { b.push(&splitter, &t) }; false }) };
    let Ok(counts) = count_words(&splitter, 2, feed) else { panic!() };
    let mut got: HashMap<Vec<u8>, i64> = HashMap::new();
    counts.iter().flat_map(WordCounts::iter).for_each(|(w, n)| assert!(got.insert(w.to_vec(), n).is_none(), "a word twice"));
    let mut want: HashMap<Vec<u8>, i64> = HashMap::new();
    splitter.for_each(&text, |w| *want.entry(w.into()).or_default() += 1).unwrap();
    assert_eq!(got, want);
}

#[test]
fn errors_come_back() {
    assert!(learn_merges::<Error>(vec![], 255, |_, _| Ok(())).unwrap_err().contains("at least 256"));
    let stop = learn_merges::<Error>(vec![], 300, |_, _| Err("enough".into()));
    assert_eq!(stop.unwrap_err(), "enough");
    let splitter = Splitter::new(r"x|\s+(?!\S)").unwrap(); // gives up on two million blanks
    let (mut calls, text) = (0, " ".repeat(2_000_000) + "x");
    let feed = |b: &mut Batch| -> Result<bool, Error> { calls += 1; b.push(&splitter, &text); Ok(calls < 1000) };
    assert!(matches!(count_words(&splitter, 2, feed), Err(CountError::Split(_))));
    let fail = |_: &mut Batch| -> Result<bool, Error> { Err("no more".into()) };
    assert!(matches!(count_words(&splitter, 2, fail), Err(CountError::Feed(e)) if e == "no more"));
}

#[test]
fn encoding_gives_the_text_back_by_the_shortest_rule() {
    let mut rng = Rng(11);
    let texts: Vec<String> = (0..300).map(|i| if i % 2 == 0 { hostile(&mut rng, 80) } else { narrow(&mut rng, 300) }).collect();
    let merges = train(&texts, 600, 2);
    let encoder = Encoder::new(Splitter::new(SPLIT_PATTERN).unwrap(), &merges);
    let ranks: HashMap<Pair, u32> = merges.iter().copied().zip(256..).collect();
    for n in [10, 90, 110, 400] {
        for _ in 0..100 {
            let text = narrow(&mut rng, n) + &hostile(&mut rng, n / 3);
            assert_eq!(encoder.decode_bytes(&encoder.encode(&text).unwrap()).unwrap(), text.as_bytes());
            let mut ids: Vec<u32> = text.bytes().map(u32::from).collect(); // one chunk, whatever it holds
            while let Some((r, i)) = ids.windows(2).enumerate().filter_map(|(i, w)| Some((*ranks.get(&(w[0], w[1]))?, i))).min() {
                ids[i] = r;
                ids.remove(i + 1);
            }
            let mut got = Vec::new();
            encoder.encode_chunk(text.as_bytes(), &mut got);
            assert_eq!(got, ids, "{text:?}");
        }
    }
    for (id, token) in encoder.tokens().iter().enumerate() {
        let mut got = Vec::new();
        encoder.encode_chunk(token, &mut got);
        assert_eq!(got, [id as u32]);
    }
    let batch = encoder.encode_batch(&texts, 3).unwrap();
    assert!(texts.iter().zip(&batch).all(|(t, ids)| &encoder.encode(t).unwrap() == ids));
    assert!(encoder.decode_bytes(&[600]).is_err());
}
