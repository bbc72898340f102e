//! Learning merges from counted words. The commonest pair first; of equally common pairs the smaller one.

use crate::{count::WordCounts, Error};
use hashbrown::HashMap;
use std::{cmp::Reverse, collections::BinaryHeap};

pub type Pair = (u32, u32);

const EDGE: u32 = u32::MAX; // between two words
const GONE: u32 = u32::MAX - 1; // a byte inside a token
const LAST: u32 = 1 << 31; // flag: the last byte of a token of several bytes

/// All distinct words in one array, a place per byte. A token's id stands at its first byte and, flagged, at its
/// last, so that both neighbours of a token are found without lists: next = place + length, and so backwards.
pub struct Words {
    ids: Vec<u32>,
    word: Vec<u32>,    // which word a place belongs to
    counts: Vec<i64>,  // how often each word occurs; i64: 2^31 blanks are soon met in a large corpus
    length: Vec<u32>,  // bytes of each token
}

impl Words {
    pub fn new<'a>(words: impl Iterator<Item = (&'a [u8], i64)>) -> Result<Self, Error> {
        let mut text = Words { ids: vec![EDGE], word: vec![0], counts: vec![], length: vec![1; 256] };
        for (bytes, count) in words.filter(|(bytes, _)| bytes.len() > 1) {
            let w = text.counts.len() as u32;
            text.ids.extend(bytes.iter().map(|&b| u32::from(b)));
            text.ids.push(EDGE);
            text.word.resize(text.ids.len(), w);
            text.counts.push(count);
            if text.ids.len() >= LAST as usize {
                return Err("the distinct words of the corpus are longer than 2 GB together".into());
            }
        }
        Ok(text)
    }

    #[inline]
    fn count_at(&self, i: u32) -> i64 {
        self.counts[self.word[i as usize] as usize]
    }

    #[inline]
    fn end(&self, i: u32) -> u32 {
        i + self.length[self.ids[i as usize] as usize]
    }

    /// The token after the one at `i`: its place and id.
    #[inline]
    fn after(&self, i: u32) -> Option<(u32, u32)> {
        let j = self.end(i);
        let id = self.ids[j as usize];
        (id != EDGE).then_some((j, id))
    }

    /// The token before the one at `i`.
    #[inline]
    fn before(&self, i: u32) -> Option<(u32, u32)> {
        let id = self.ids[i as usize - 1];
        (id != EDGE).then(|| (i - self.length[(id & !LAST) as usize], id & !LAST))
    }

    /// Where b stands, if a token a stands at `i` and b follows it.
    #[inline]
    fn find(&self, i: u32, (a, b): Pair) -> Option<u32> {
        if self.ids[i as usize] != a {
            return None;
        }
        self.after(i).and_then(|(j, id)| (id == b).then_some(j))
    }

    #[inline]
    fn glue(&mut self, i: u32, j: u32, new: u32) {
        let end = self.end(j);
        self.ids[j as usize] = GONE;
        self.ids[i as usize] = new;
        self.ids[end as usize - 1] = new | LAST;
    }
}

/// What is known of a pair: how often it occurs, and the places where it may be found.
#[derive(Default)]
pub struct Seen {
    count: i64,
    at: Vec<u32>,
}

/// How often each pair of neighbours occurs, and where.
pub fn count_pairs(text: &Words) -> HashMap<Pair, Seen> {
    let mut pairs: HashMap<Pair, Seen> = HashMap::new();
    for (i, two) in text.ids.windows(2).enumerate() {
        if two[0] != EDGE && two[1] != EDGE {
            let seen = pairs.entry((two[0], two[1])).or_default();
            seen.count += text.count_at(i as u32);
            seen.at.push(i as u32);
        }
    }
    pairs
}

/// Replace the pair (a, b) by `new` at the given places, from left to right, and report each pair that
/// comes or goes with it: the pair, its place, how many more.
pub fn merge(
    text: &mut Words,
    at: &[u32],
    (a, b): Pair,
    new: u32,
    mut change: impl FnMut(Pair, u32, i64),
) {
    // tokens are born in the order of their ids
    text.length.push(text.length[a as usize] + text.length[b as usize]);
    for &i in at {
        // the pair may be gone meanwhile, such as the second aa of aaa
        let Some(j) = text.find(i, (a, b)) else { continue };
        let n = text.count_at(i);
        if let Some((h, x)) = text.before(i) {
            change((x, a), h, -n);
            change((x, new), h, n);
        }
        if let Some((_, y)) = text.after(j) {
            change((b, y), j, -n);
            change((new, y), i, n);
        }
        text.glue(i, j, new);
    }
}

/// Learn up to `vocab_size - 256` merges. `tick` hears now and then how many are done, and may stop it all by an error.
pub fn learn_merges<E: From<Error>>(
    counts: Vec<WordCounts>,
    vocab_size: u32,
    mut tick: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<Pair>, E> {
    let wanted = check_vocab_size(vocab_size)?;
    let mut text = Words::new(counts.iter().flat_map(WordCounts::iter))?;
    drop(counts);
    tick(0, wanted)?;
    let mut pairs = count_pairs(&text);
    let mut heap: BinaryHeap<_> = pairs.iter().map(|(&pair, seen)| (seen.count, Reverse(pair))).collect();
    let (mut merges, mut fresh, mut places) = (Vec::new(), Vec::new(), 0);
    while merges.len() < wanted {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        let now = pairs[&pair].count;
        if now != count {
            if now > 0 {
                heap.push((now, Reverse(pair))); // out of date: back to its true place
            } else {
                pairs.remove(&pair);
            }
            continue;
        }
        let at = pairs.remove(&pair).map(|seen| seen.at).unwrap_or_default();
        let new = 256 + merges.len() as u32;
        merge(&mut text, &at, pair, new, |other, i, n| {
            if n > 0 {
                let seen = pairs.entry(other).or_default();
                if seen.at.is_empty() {
                    fresh.push(other); // a pair with `new` in it: all its places come within this merge
                }
                seen.count += n;
                seen.at.push(i);
            } else if let Some(seen) = pairs.get_mut(&other) {
                seen.count += n;
            }
        });
        heap.extend(fresh.drain(..).map(|p| (pairs[&p].count, Reverse(p))).filter(|&(count, _)| count > 0));
        merges.push(pair);
        places += at.len();
        if places > 1 << 18 || merges.len() % 1024 == 0 {
            places = 0;
            tick(merges.len(), wanted)?;
        }
    }
    tick(merges.len(), wanted)?;
    Ok(merges)
}

/// How many merges a vocabulary of this size asks for.
pub fn check_vocab_size(vocab_size: u32) -> Result<usize, Error> {
    match vocab_size {
        0..=255 => Err(format!("vocab_size must be at least 256 (one token per byte), not {vocab_size}")),
        256..=0x3fff_ffff => Ok(vocab_size as usize - 256),
        _ => Err(format!("vocab_size {vocab_size} is more than 2^30")),
    }
}
