//! Bindings of the server's framer.
//!
//! Promises: one call for each read: `feed` and `resume` return all events as a list of values. Bodies are copied at most
//! once. Input never raises.
//!
//! Refuses: misuse: feeding a held framer beyond `Limits.held` (BufferError), resuming one that is not held
//! (RuntimeError), an invalid mode (ValueError).

use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::data::{body, header_size, newline};
use super::values::{Octets, Types, addresses, boolean, integer, types};
use crate::command::Command;
use crate::data::Newline;
use crate::fault::Fault;
use crate::framer::{self, Body, BodyEnd, Events, Misuse, Mode};

/// Adds this file's class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ServerFramer>()
}

/// By their numbers in `ironpost.wire.interface`.
const MODES: [Mode; 4] = [Mode::Command, Mode::Data, Mode::Line, Mode::Closed];

/// Makes Python values of events.
struct Collector<'a, 'py> {
    py: Python<'py>,
    types: &'static Types,
    /// The Python object that is being read.
    input: Option<&'a Bound<'py, PyBytes>>,
    events: Bound<'py, PyList>,
    /// The first failure to create a value (usually out of memory).
    failed: Option<PyErr>,
}

impl<'a, 'py> Collector<'a, 'py> {
    fn new(py: Python<'py>, input: Option<&'a Bound<'py, PyBytes>>) -> PyResult<Self> {
        Ok(Self {
            py,
            types: types(py)?,
            input,
            events: PyList::empty(py),
            failed: None,
        })
    }

    fn add(&mut self, event: PyResult<Bound<'py, PyAny>>) {
        if let Err(error) = event.and_then(|event| self.events.append(event)) {
            self.failed.get_or_insert(error);
        }
    }

    fn finish(self) -> PyResult<Bound<'py, PyList>> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.events),
        }
    }
}

impl Events for Collector<'_, '_> {
    fn command(&mut self, command: &Command<'_>) {
        self.add(self.types.command(self.py, command));
    }

    fn body(&mut self, piece: Body<'_>) {
        self.add(body(self.py, piece.plan(), piece.input(), self.input).map(Bound::into_any));
    }

    fn body_end(&mut self, end: BodyEnd) {
        let (py, facts) = (self.py, end.facts);
        let header_size = match header_size(facts.header_size).into_pyobject(py) {
            Ok(size) => size.into_any().unbind(),
            Err(error) => match error {},
        };
        let items = [
            boolean(py, end.last),
            integer(py, facts.size),
            boolean(py, facts.eight_bit),
            boolean(py, facts.nul),
            boolean(py, facts.bare_cr),
            boolean(py, facts.bare_lf),
            integer(py, facts.longest_line),
            header_size,
        ];
        self.add(self.types.body_end.build(py, items));
    }

    fn line(&mut self, octets: &[u8]) {
        self.add(self.types.line.build(self.py, [self.types.bytes(self.py, octets)]));
    }

    fn fault(&mut self, fault: Fault) {
        self.add(self.types.fault(self.py, fault));
    }
}

fn raise(misuse: Misuse) -> PyErr {
    match misuse {
        Misuse::HeldFull { .. } => PyBufferError::new_err(misuse.to_string()),
        Misuse::NotHeld => PyRuntimeError::new_err(misuse.to_string()),
    }
}

/// Split what a client sends into commands, content and lines (RFC 5321 §4.1.1, RFC 3030 §2).
///
/// Args:
///     limits: lengths of lines, octets stored while held, content returned.
///     newline: the policy for a bare CR or LF in DATA; the octets of BDAT are returned unchanged.
///     lenient: MAIL and RCPT may deviate from the grammar as `TOLERATED` lists.
///     chunking: octets follow BDAT; False in a server that does not offer CHUNKING, where BDAT is an unknown command.
#[pyclass(module = "ironpost.wire._native")]
struct ServerFramer(framer::ServerFramer);

#[pymethods]
impl ServerFramer {
    #[new]
    #[pyo3(
        signature = (limits = None, newline = None, *, lenient = false, chunking = true),
        text_signature = "(limits=None, newline='reject', *, lenient=False, chunking=True)"
    )]
    fn new(
        py: Python<'_>,
        limits: Option<&Bound<'_, PyAny>>,
        newline: Option<&Bound<'_, PyAny>>,
        lenient: bool,
        chunking: bool,
    ) -> PyResult<Self> {
        let newline = newline.map_or(Ok(Newline::Reject), |name| self::newline(name, true))?;
        let limits = types(py)?.limits(limits)?;
        let framer = framer::ServerFramer::new(limits, newline, addresses(lenient));
        Ok(Self(if chunking { framer } else { framer.without_chunking() }))
    }

    /// The events in `data` up to a hold; the octets after it are stored.
    ///
    /// Raises:
    ///     BufferError: while held, if more than `Limits.held` octets would be stored; `data` is not stored.
    fn feed<'py>(&mut self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let data = Octets::new(data)?;
        let mut collector = Collector::new(data.as_bytes().py(), Some(data.as_bytes()))?;
        self.0.feed(data.as_slice(), &mut collector).map_err(raise)?;
        collector.finish()
    }

    /// End a hold, and read what was stored up to the next one.
    ///
    /// Args:
    ///     mode: how to read on, one of the MODE constants.
    ///
    /// Raises:
    ///     RuntimeError: if the framer is not held.
    ///     ValueError: if the mode does not exist.
    fn resume<'py>(&mut self, mode: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = mode.py();
        let Some(mode) = mode.extract().ok().and_then(|number: usize| MODES.get(number)) else {
            return Err(PyValueError::new_err(format!(
                "{} is not a mode of ServerFramer",
                mode.repr()?
            )));
        };
        let mut collector = Collector::new(py, None)?;
        self.0.resume(*mode, &mut collector).map_err(raise)?;
        collector.finish()
    }

    /// Whether the framer waits for `resume`.
    #[getter]
    fn held(&self) -> bool {
        self.0.held()
    }

    /// One of the MODE constants: how octets are read, or were read until the hold.
    #[getter]
    fn mode(&self) -> u8 {
        self.0.mode() as u8
    }

    /// Octets fed after the hold and not yet read.
    #[getter]
    fn buffered(&self) -> usize {
        self.0.buffered()
    }
}
