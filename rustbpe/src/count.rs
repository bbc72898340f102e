//! Counting distinct words on all cores. A corpus streams through; only its words and their counts stay.

use crate::{split::Splitter, Error};
use hashbrown::{hash_table::HashTable, DefaultHashBuilder};
use std::{
    hash::BuildHasher,
    ops::Range,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{sync_channel, Receiver},
        Arc, Mutex,
    },
};

const JOB: usize = 1 << 19; // bytes of text per job: long enough to hide the hand-over, short enough for all cores
const LOCAL: usize = 1 << 16; // words a thread keeps before it hands them over: most words of a text are among these
const SHARDS: usize = 16; // parts of the common table, each with its own lock

struct Entry {
    hash: u64,
    count: i64,
    start: usize,
    len: usize,
}

/// Words and their counts. All bytes lie in one arena: no allocation per word.
#[derive(Default)]
pub struct WordCounts {
    hasher: DefaultHashBuilder,
    table: HashTable<u32>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl WordCounts {
    fn with_hasher(hasher: DefaultHashBuilder) -> Self {
        WordCounts { hasher, ..Default::default() }
    }

    #[inline]
    pub fn add(&mut self, word: &[u8], n: i64) {
        let mut h = self.hasher.build_hasher();
        std::hash::Hasher::write(&mut h, word);
        self.add_hashed(std::hash::Hasher::finish(&h), word, n)
    }

    #[inline]
    fn add_hashed(&mut self, hash: u64, word: &[u8], n: i64) {
        let WordCounts { table, entries, bytes, .. } = self;
        let same = |&i: &u32| {
            let e = &entries[i as usize];
            e.hash == hash && &bytes[e.start..][..e.len] == word
        };
        if let Some(&i) = table.find(hash, same) {
            entries[i as usize].count += n;
            return;
        }
        let i = u32::try_from(entries.len()).expect("fewer than 4 billion distinct words");
        entries.push(Entry { hash, count: n, start: bytes.len(), len: word.len() });
        bytes.extend_from_slice(word);
        table.insert_unique(hash, i, |&i| entries[i as usize].hash);
    }

    fn clear(&mut self) {
        self.table.clear();
        self.entries.clear();
        self.bytes.clear();
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.entries.iter().map(|e| (&self.bytes[e.start..][..e.len], e.count))
    }
}

/// Texts on their way to the threads: one string, and where in it the pieces lie.
#[derive(Default)]
pub struct Batch {
    text: String,
    pieces: Vec<Range<usize>>,
}

impl Batch {
    /// Add a document. A long one is cut where the split has a cut anyway, so that all cores get some of it.
    pub fn push(&mut self, splitter: &Splitter, doc: &str) {
        let mut start = 0;
        while doc.len() - start > 2 * JOB {
            let Some(cut) = splitter.safe_cut(doc, start + JOB) else { break };
            self.push_piece(&doc[start..cut]);
            start = cut;
        }
        self.push_piece(&doc[start..]);
    }

    fn push_piece(&mut self, piece: &str) {
        let start = self.text.len();
        self.text.push_str(piece);
        self.pieces.push(start..self.text.len());
    }

    pub fn is_full(&self) -> bool {
        self.text.len() >= JOB
    }

    fn jobs(self) -> impl Iterator<Item = Job> {
        let batch = Arc::new(self);
        let mut next = 0;
        std::iter::from_fn(move || {
            let (first, mut size) = (next, 0);
            while next < batch.pieces.len() && size < JOB {
                size += batch.pieces[next].len();
                next += 1;
            }
            (first < next).then(|| Job { batch: batch.clone(), pieces: first..next })
        })
    }
}

struct Job {
    batch: Arc<Batch>,
    pieces: Range<usize>,
}

/// What `count_words` can fail with: an error of the feeder, or of the split.
pub enum CountError<E> {
    Feed(E),
    Split(Error),
}

/// Count the words of all texts that `feed` delivers. `feed` fills a batch and says whether more may come; it runs
/// on the calling thread, while `threads` others split and count.
pub fn count_words<E>(
    splitter: &Splitter,
    threads: usize,
    mut feed: impl FnMut(&mut Batch) -> Result<bool, E>,
) -> Result<Vec<WordCounts>, CountError<E>> {
    let hasher = DefaultHashBuilder::default();
    let shards: Vec<_> = (0..SHARDS).map(|_| Mutex::new(WordCounts::with_hasher(hasher.clone()))).collect();
    let failed = Failure::default();
    let (sender, receiver) = sync_channel::<Job>(threads); // bounded: a slow reader never makes texts pile up
    let receiver = Arc::new(Mutex::new(receiver)); // owned by the threads: were they all to die, sending would fail, not hang
    let fed = std::thread::scope(|scope| {
        for t in 0..threads.max(1) {
            let (hasher, receiver, shards, failed) = (hasher.clone(), receiver.clone(), &shards, &failed);
            scope.spawn(move || count_jobs(t, splitter, &receiver, WordCounts::with_hasher(hasher), shards, failed));
        }
        drop(receiver);
        let sender = sender; // dropped at the end of this block: that tells the threads to end
        let mut more = true;
        while more && !failed.is_set() {
            let mut batch = Batch::default();
            more = feed(&mut batch)?;
            if !batch.jobs().all(|job| sender.send(job).is_ok()) {
                break; // no thread is left: the scope passes their panic on
            }
        }
        Ok(())
    });
    fed.map_err(CountError::Feed)?;
    failed.check().map_err(CountError::Split)?;
    Ok(shards.into_iter().map(|s| s.into_inner().expect("no thread panicked")).collect())
}

#[derive(Default)]
struct Failure {
    flag: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Failure {
    fn set(&self, e: Error) {
        self.error.lock().expect("no thread panicked").get_or_insert(e);
        self.flag.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    fn check(self) -> Result<(), Error> {
        self.error.into_inner().expect("no thread panicked").map_or(Ok(()), Err)
    }
}

fn count_jobs(
    thread: usize,
    splitter: &Splitter,
    receiver: &Mutex<Receiver<Job>>,
    mut local: WordCounts,
    shards: &[Mutex<WordCounts>],
    failed: &Failure,
) {
    loop {
        let job = receiver.lock().expect("no thread panicked").recv();
        let Ok(job) = job else { break };
        for piece in &job.batch.pieces[job.pieces] {
            if failed.is_set() {
                break; // go on taking jobs, so that the feeder is never stuck
            }
            let counted = splitter.for_each(&job.batch.text[piece.clone()], |w| local.add(w.as_bytes(), 1));
            counted.unwrap_or_else(|e| failed.set(e));
            if local.len() >= LOCAL || local.bytes.len() >= 64 * LOCAL {
                hand_over(thread, &mut local, shards);
            }
        }
    }
    hand_over(thread, &mut local, shards);
}

fn hand_over(thread: usize, local: &mut WordCounts, shards: &[Mutex<WordCounts>]) {
    for k in 0..shards.len() {
        let s = (k + thread) % shards.len(); // each thread begins elsewhere: less waiting for locks
        let mut shard = shards[s].lock().expect("no thread panicked");
        for e in local.entries.iter().filter(|e| (e.hash >> 32) as usize % shards.len() == s) {
            shard.add_hashed(e.hash, &local.bytes[e.start..][..e.len], e.count);
        }
    }
    local.clear();
}
