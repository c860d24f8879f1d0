//! Bindings of the server's framer.
//!
//! Promises: one crossing for each read: `feed` and `resume` give every event as a list of finished values. Bodies are
//! copied at most once. Nothing a peer sends raises.
//!
//! Refuses: misuse: feeding a held framer beyond `Limits.held` (BufferError), resuming one that is not held
//! (RuntimeError), a mode that is none (ValueError).

use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::data::{body, header_size, newline};
use super::values::{Octets, Types, boolean, integer, types};
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
    /// The object that is being read.
    input: Option<&'a Bound<'py, PyBytes>>,
    events: Bound<'py, PyList>,
    /// The first failure to make a value (no memory, as a rule).
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

/// The framer of a server's connection.
#[pyclass(module = "ironpost.wire._native")]
struct ServerFramer(framer::ServerFramer);

#[pymethods]
impl ServerFramer {
    #[new]
    #[pyo3(signature = (limits = None, newline = None), text_signature = "(limits=None, newline='reject')")]
    fn new(py: Python<'_>, limits: Option<&Bound<'_, PyAny>>, newline: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let newline = newline.map_or(Ok(Newline::Reject), |name| self::newline(name, true))?;
        Ok(Self(framer::ServerFramer::new(types(py)?.limits(limits)?, newline)))
    }

    /// The events of the next octets.
    fn feed<'py>(&mut self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let data = Octets::new(data)?;
        let mut collector = Collector::new(data.as_bytes().py(), Some(data.as_bytes()))?;
        self.0.feed(data.as_slice(), &mut collector).map_err(raise)?;
        collector.finish()
    }

    /// Goes on in `mode`: the events of what was buffered behind the hold.
    fn resume<'py>(&mut self, mode: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = mode.py();
        let Some(mode) = mode.extract().ok().and_then(|number: usize| MODES.get(number)) else {
            return Err(PyValueError::new_err(format!(
                "{} is no mode of ServerFramer",
                mode.repr()?
            )));
        };
        let mut collector = Collector::new(py, None)?;
        self.0.resume(*mode, &mut collector).map_err(raise)?;
        collector.finish()
    }

    /// Whether it waits for `resume`.
    #[getter]
    fn held(&self) -> bool {
        self.0.held()
    }

    /// One of the MODE_ numbers.
    #[getter]
    fn mode(&self) -> u8 {
        self.0.mode() as u8
    }

    /// Octets fed behind the hold, not yet read.
    #[getter]
    fn buffered(&self) -> usize {
        self.0.buffered()
    }
}
