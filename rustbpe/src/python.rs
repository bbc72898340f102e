//! Thin bindings: `nanochat.rustbpe`, with the interface of the registry's `rustbpe`. All work is done elsewhere.

use crate::{
    count::{count_words, Batch, CountError},
    encode::Encoder,
    split::{Splitter, SPLIT_PATTERN},
    train::{check_vocab_size, learn_merges},
    Error,
};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyIterator, PyString},
};
use std::time::{Duration, Instant};

const REPORT: Duration = Duration::from_millis(100); // progress is heard at most this often

/// An error of the core (one line of text) or of Python (kept as it is).
enum Failed {
    Core(Error),
    Python(PyErr),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Failed::Core(e)
    }
}

impl From<Failed> for PyErr {
    fn from(e: Failed) -> Self {
        match e {
            Failed::Core(e) => PyValueError::new_err(e),
            Failed::Python(e) => e,
        }
    }
}

/// A byte pair encoding tokenizer: train it, then read its ranks, or encode and decode with it.
#[pyclass(module = "nanochat.rustbpe")]
struct Tokenizer {
    pattern: String,
    encoder: Encoder,
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new() -> PyResult<Self> {
        let splitter = Splitter::new(SPLIT_PATTERN).map_err(PyValueError::new_err)?;
        Ok(Tokenizer { pattern: SPLIT_PATTERN.into(), encoder: Encoder::new(splitter, &[]) })
    }

    /// Learn merges from an iterable of strings, which is read once and not kept.
    ///
    /// Higher count first; of equal counts the smaller pair of ids. `progress(stage, done, total)` is called with
    /// ("count", bytes read, None) and ("merge", merges, merges wanted). `buffer_size` strings at most are read ahead
    /// at a time. Ctrl-C and whatever `progress` or the iterator raise stop the training; the tokenizer is then as before.
    #[pyo3(signature = (iterator, vocab_size, buffer_size=8192, pattern=None, progress=None, threads=None))]
    #[allow(clippy::too_many_arguments)]
    fn train_from_iterator(
        &mut self,
        py: Python<'_>,
        iterator: &Bound<'_, PyAny>,
        vocab_size: i64,
        buffer_size: usize,
        pattern: Option<String>,
        progress: Option<Py<PyAny>>,
        threads: Option<usize>,
    ) -> PyResult<()> {
        if iterator.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("iterator must yield strings, not be one: pass [text]"));
        }
        let size = u32::try_from(vocab_size.max(0)).unwrap_or(u32::MAX);
        check_vocab_size(size).map_err(|e| PyValueError::new_err(e.replace(&size.to_string(), &vocab_size.to_string())))?;
        if buffer_size == 0 || threads == Some(0) {
            return Err(PyValueError::new_err("buffer_size and threads must be at least 1"));
        }
        let pattern = pattern.unwrap_or_else(|| SPLIT_PATTERN.into());
        let splitter = Splitter::new(&pattern).map_err(PyValueError::new_err)?;
        let mut texts = Texts { iterator: iterator.try_iter()?.unbind(), buffer_size, items: 0, bytes: 0 };
        let mut report = Report { progress, last: Instant::now() };
        let merges = py.detach(|| {
            let feed = |batch: &mut Batch| {
                let more = Python::attach(|py| texts.refill(py, &splitter, batch)).map_err(Failed::Python)?;
                report.tell("count", texts.bytes, None, !more)?;
                Ok(more)
            };
            let counts = count_words(&splitter, threads.unwrap_or_else(cores), feed).map_err(|e| match e {
                CountError::Feed(e) => e,
                CountError::Split(e) => Failed::Core(e),
            })?;
            let merges = learn_merges(counts, size, |done, all| report.tell("merge", done, Some(all), false))?;
            report.tell("merge", merges.len(), Some(size as usize - 256), true)?;
            Ok::<_, Failed>(merges)
        })?;
        self.encoder = Encoder::new(splitter, &merges);
        self.pattern = pattern;
        Ok(())
    }

    /// The split pattern.
    fn get_pattern(&self) -> &str {
        &self.pattern
    }

    /// Tokens in the vocabulary: 256 bytes and one per merge.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.encoder.tokens().len()
    }

    /// [(bytes of the token, its rank)], in the order of the ranks; as a dict it is what tiktoken wants.
    fn get_mergeable_ranks<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, usize)> {
        self.encoder.tokens().iter().enumerate().map(|(i, t)| (PyBytes::new(py, t), i)).collect()
    }

    /// Token ids of a text.
    fn encode(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        py.detach(|| self.encoder.encode(text)).map_err(PyValueError::new_err)
    }

    /// Token ids of each text, on all cores.
    fn batch_encode(&self, py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<Vec<u32>>> {
        py.detach(|| self.encoder.encode_batch(&texts, cores())).map_err(PyValueError::new_err)
    }

    /// The text of token ids; UnicodeDecodeError if their bytes are no text.
    fn decode<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.encoder.decode_bytes(&ids).map_err(PyValueError::new_err)?;
        PyBytes::new(py, &bytes).call_method1("decode", ("utf-8",))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The Python iterator, read in batches while the interpreter is ours.
struct Texts {
    iterator: Py<PyIterator>,
    buffer_size: usize,
    items: usize,
    bytes: usize,
}

impl Texts {
    /// Fill the batch; false if the iterator is at its end.
    fn refill(&mut self, py: Python<'_>, splitter: &Splitter, batch: &mut Batch) -> PyResult<bool> {
        py.check_signals()?;
        let mut iterator = self.iterator.bind(py).clone();
        for _ in 0..self.buffer_size {
            let Some(item) = iterator.next() else { return Ok(false) };
            let item = item?;
            let Ok(text) = item.cast::<PyString>() else {
                let kind = item.get_type().name()?;
                return Err(PyTypeError::new_err(format!("item {} of the iterator is {kind}, not str", self.items)));
            };
            let bytes = text.encode_utf8()?; // not to_str, which would keep a second copy inside of Python's string
            batch.push(splitter, std::str::from_utf8(bytes.as_bytes()).expect("Python writes valid UTF-8"));
            self.items += 1;
            self.bytes += bytes.as_bytes().len();
            if batch.is_full() {
                break;
            }
        }
        Ok(true)
    }
}

/// Calls `progress` now and then, and sees to Ctrl-C.
struct Report {
    progress: Option<Py<PyAny>>,
    last: Instant,
}

impl Report {
    fn tell(&mut self, stage: &str, done: usize, total: Option<usize>, end: bool) -> Result<(), Failed> {
        if !end && self.last.elapsed() < REPORT {
            return Ok(());
        }
        self.last = Instant::now();
        let told = Python::attach(|py| {
            py.check_signals()?;
            match &self.progress {
                Some(f) => f.call1(py, (stage, done, total)).map(drop),
                None => Ok(()),
            }
        });
        told.map_err(Failed::Python)
    }
}

#[pymodule]
fn rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SPLIT_PATTERN", SPLIT_PATTERN)?;
    module.add_class::<Tokenizer>()
}
