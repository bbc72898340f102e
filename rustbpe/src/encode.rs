//! Text to ids and back, by the merges that training learned.

use crate::{split::Splitter, train::Pair, Error};
use hashbrown::HashMap;
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicUsize, Ordering},
};

const SHORT: usize = 100; // up to here looking at all pairs again beats keeping them in a heap

pub struct Encoder {
    splitter: Splitter,
    rank: HashMap<Pair, u32>,
    tokens: Vec<Box<[u8]>>,
    whole: HashMap<Box<[u8]>, u32>,
}

impl Encoder {
    pub fn new(splitter: Splitter, merges: &[Pair]) -> Self {
        let mut tokens: Vec<Box<[u8]>> = (0..=255u8).map(|b| Box::from([b])).collect();
        for &(a, b) in merges {
            tokens.push([&*tokens[a as usize], &*tokens[b as usize]].concat().into());
        }
        let rank = merges.iter().zip(256..).map(|(&pair, id)| (pair, id)).collect();
        let whole = tokens.iter().cloned().zip(0..).collect();
        Encoder { splitter, rank, tokens, whole }
    }

    /// Bytes of every token, by id.
    pub fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.splitter.for_each(text, |w| self.encode_chunk(w.as_bytes(), &mut ids))?;
        Ok(ids)
    }

    /// Glue the pair of lowest rank, the leftmost of equals, until none is left.
    pub fn encode_chunk(&self, chunk: &[u8], ids: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(chunk) {
            ids.push(id); // a token's own bytes always lead to it: its merges can't be crossed from outside
        } else if chunk.len() <= SHORT {
            self.encode_short(chunk, ids)
        } else {
            self.encode_long(chunk, ids)
        }
    }

    fn rank(&self, a: u32, b: u32) -> u32 {
        self.rank.get(&(a, b)).copied().unwrap_or(u32::MAX)
    }

    fn encode_short(&self, chunk: &[u8], ids: &mut Vec<u32>) {
        let first = ids.len();
        ids.extend(chunk.iter().map(|&b| u32::from(b)));
        let mut ranks: Vec<u32> = ids[first..].windows(2).map(|w| self.rank(w[0], w[1])).collect();
        while let Some((i, &r)) = ranks.iter().enumerate().min_by_key(|&(_, r)| r) {
            if r == u32::MAX {
                break;
            }
            ids[first + i] = r; // the rank of a pair is the id of its token
            ids.remove(first + i + 1);
            ranks.remove(i);
            if i > 0 {
                ranks[i - 1] = self.rank(ids[first + i - 1], r);
            }
            if i < ranks.len() {
                ranks[i] = self.rank(r, ids[first + i + 1]);
            }
        }
    }

    /// The same with a heap and a linked list: n log n, for a word that is a megabyte long.
    fn encode_long(&self, chunk: &[u8], ids: &mut Vec<u32>) {
        const NONE: usize = usize::MAX;
        let n = chunk.len();
        let mut id: Vec<u32> = chunk.iter().map(|&b| u32::from(b)).collect();
        let mut next: Vec<usize> = (1..=n).map(|i| if i < n { i } else { NONE }).collect();
        let mut prev: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect(); // 0 - 1 = NONE
        let mut heap: BinaryHeap<_> = (0..n - 1).map(|i| Reverse((self.rank(id[i], id[i + 1]), i))).collect();
        while let Some(Reverse((r, i))) = heap.pop() {
            if r == u32::MAX {
                break;
            }
            let j = next[i];
            if id[i] == u32::MAX || j == NONE || self.rank(id[i], id[j]) != r {
                continue; // the pair that was here is gone
            }
            id[i] = r;
            id[j] = u32::MAX;
            next[i] = next[j];
            if next[i] != NONE {
                prev[next[i]] = i;
                heap.push(Reverse((self.rank(r, id[next[i]]), i)));
            }
            if prev[i] != NONE {
                heap.push(Reverse((self.rank(id[prev[i]], r), prev[i])));
            }
        }
        ids.extend(id.into_iter().filter(|&x| x != u32::MAX));
    }

    /// Encode many texts on `threads` threads, in their order.
    pub fn encode_batch(&self, texts: &[String], threads: usize) -> Result<Vec<Vec<u32>>, Error> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(text) = texts.get(i) else { return done };
                done.push((i, self.encode(text)));
            }
        };
        let mut out = vec![Vec::new(); texts.len()];
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.clamp(1, texts.len().max(1))).map(|_| scope.spawn(work)).collect();
            for (i, ids) in workers.into_iter().flat_map(|w| w.join().expect("no thread panicked")) {
                out[i] = ids?;
            }
            Ok(out)
        })
    }

    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for &id in ids {
            let token = self.tokens.get(id as usize).ok_or_else(|| {
                format!("unknown token id {id}: the vocabulary has {} tokens", self.tokens.len())
            })?;
            bytes.extend_from_slice(token);
        }
        Ok(bytes)
    }
}
