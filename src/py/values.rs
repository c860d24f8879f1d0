//! Between Rust values and the named tuples of `ironpost.wire.interface`.
//!
//! Promises: values are equal to, of the same type as, and hash like those that the Python class creates; verbs,
//! fault ids and frequent keywords are interned strings; nothing is imported on the hot path.
//!
//! Refuses: arguments that are not octets, or not `Limits`, with TypeError.
//!
//! Measured with CPython 3.11 on one core of the build machine, seven fields, cost above an empty call, with abi3-py311
//! (per-version build in brackets): plain tuple 39 ns (22), named tuple laid out here 51 (48), frozen pyclass 58 (41),
//! named tuple by calling its class 244 (225). Reading an attribute: 19 ns of a named tuple, 9 of a pyclass. A MAIL
//! command with three parameters takes 474 ns (486) from Python: abi3 has no measurable cost.

use std::str;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyMemoryView, PyString, PyTuple, PyType};

use crate::address::{Addresses, Mailbox, Tolerated};
use crate::command::{Chunk, Command, Verb};
use crate::fault::{Fault, FaultId};
use crate::limits::Limits;
use crate::params::Parameters;

/// The module whose classes are built.
const INTERFACE: &str = "ironpost.wire.interface";

/// Keywords (RFC 1870, 6152, 6531, 3461, 4954, 8689, 2852, 4865, 6710, 7293) and values that most transactions carry.
const FREQUENT: &[&str] = &[
    "SIZE",
    "BODY",
    "SMTPUTF8",
    "RET",
    "ENVID",
    "NOTIFY",
    "ORCPT",
    "AUTH",
    "REQUIRETLS",
    "BY",
    "HOLDFOR",
    "HOLDUNTIL",
    "MT-PRIORITY",
    "RRVS",
    "8BITMIME",
    "7BIT",
    "BINARYMIME",
    "FULL",
    "HDRS",
    "NEVER",
    "<>",
];

static STATE: PyOnceLock<Types> = PyOnceLock::new();

/// A named tuple class with `N` fields.
pub(super) struct Class<const N: usize> {
    class: Py<PyType>,
    /// Instances may be laid out here; otherwise `tuple.__new__` makes them.
    direct: bool,
}

/// The classes and strings that values are made of.
pub(super) struct Types {
    pub(super) command: Class<8>,
    pub(super) fault: Class<2>,
    pub(super) mailbox: Class<2>,
    pub(super) chunk: Class<2>,
    pub(super) body_end: Class<8>,
    pub(super) line: Class<1>,
    pub(super) reply: Class<3>,
    pub(super) ehlo: Class<2>,
    pub(super) header_field: Class<4>,
    pub(super) header_section: Class<4>,
    limits: Py<PyType>,
    /// What callers without limits of their own pass: not read again each time.
    default_limits: Py<PyAny>,
    wire_fault: Py<PyType>,
    /// By the position in [`Verb::KNOWN`].
    verbs: Vec<Py<PyString>>,
    /// By the position in [`FREQUENT`].
    frequent: Vec<Py<PyString>>,
    /// By the number of the [`FaultId`].
    fault_ids: Vec<Py<PyString>>,
    empty_bytes: Py<PyBytes>,
    /// Read-only by contract, like the default of `Command.parameters`.
    no_parameters: Py<PyDict>,
    null_mailbox: Py<PyAny>,
    /// The values of `Command.tolerated` by [`Tolerated`]: without and with stray dots, then the same with an underscore.
    tolerated: [Py<PyTuple>; 4],
}

/// Imports the classes, once.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    STATE.get_or_try_init(py, || Types::new(py)).map(|_| ())
}

/// The classes and interned strings.
#[inline]
pub(super) fn types(py: Python<'_>) -> PyResult<&'static Types> {
    match STATE.get(py) {
        Some(types) => Ok(types),
        None => STATE.get_or_try_init(py, || Types::new(py)),
    }
}

/// The meaning of the keyword `lenient` of the Python functions.
#[inline]
pub(super) fn addresses(lenient: bool) -> Addresses {
    if lenient { Addresses::Lenient } else { Addresses::Strict }
}

impl Types {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let interface = py.import(INTERFACE)?;
        let intern = |text: &&str| PyString::intern(py, text).unbind();
        let empty_string = PyString::intern(py, "").unbind();
        let mailbox = Class::new(&interface, "Mailbox")?;
        let null_mailbox = mailbox.build(
            py,
            [
                empty_string.clone_ref(py).into_any(),
                empty_string.clone_ref(py).into_any(),
            ],
        )?;
        Ok(Self {
            command: Class::new(&interface, "Command")?,
            fault: Class::new(&interface, "Fault")?,
            mailbox,
            chunk: Class::new(&interface, "Chunk")?,
            body_end: Class::new(&interface, "BodyEnd")?,
            line: Class::new(&interface, "Line")?,
            reply: Class::new(&interface, "Reply")?,
            ehlo: Class::new(&interface, "Ehlo")?,
            header_field: Class::new(&interface, "HeaderField")?,
            header_section: Class::new(&interface, "HeaderSection")?,
            limits: interface.getattr("Limits")?.cast_into::<PyType>()?.unbind(),
            default_limits: interface.getattr("DEFAULT_LIMITS")?.unbind(),
            wire_fault: interface.getattr("WireFault")?.cast_into::<PyType>()?.unbind(),
            verbs: Verb::KNOWN.iter().map(|(_, text)| intern(text)).collect(),
            frequent: FREQUENT.iter().map(intern).collect(),
            fault_ids: FaultId::ALL.iter().map(|fault| intern(&fault.id())).collect(),
            empty_bytes: PyBytes::new(py, b"").unbind(),
            no_parameters: PyDict::new(py).unbind(),
            null_mailbox: null_mailbox.unbind(),
            tolerated: {
                let [dots, underscore] = ["stray_dots", "underscore"].map(|name| PyString::intern(py, name));
                [
                    PyTuple::empty(py).unbind(),
                    PyTuple::new(py, [&dots])?.unbind(),
                    PyTuple::new(py, [&underscore])?.unbind(),
                    PyTuple::new(py, [&dots, &underscore])?.unbind(),
                ]
            },
        })
    }

    /// A `Command`.
    pub(super) fn command<'py>(&self, py: Python<'py>, command: &Command<'_>) -> PyResult<Bound<'py, PyAny>> {
        let path = match &command.path {
            Some(path) => self.mailbox(py, path)?,
            None => py.None(),
        };
        let chunk = match command.chunk {
            Some(Chunk { size, last }) => self.chunk.build(py, [integer(py, size), boolean(py, last)])?.unbind(),
            None => py.None(),
        };
        let fault = match command.fault {
            Some(fault) => self.fault(py, fault)?.unbind(),
            None => py.None(),
        };
        let items = [
            self.verb(py, command.verb),
            self.bytes(py, command.argument),
            path,
            self.parameters(py, &command.parameters)?,
            command.domain.map_or_else(|| py.None(), |domain| string(py, domain)),
            chunk,
            fault,
            self.tolerated(py, command.tolerated),
        ];
        self.command.build(py, items)
    }

    #[inline]
    fn tolerated(&self, py: Python<'_>, tolerated: Tolerated) -> Py<PyAny> {
        let position = usize::from(tolerated.underscore) * 2 + usize::from(tolerated.stray_dots);
        self.tolerated[position].clone_ref(py).into_any()
    }

    fn verb(&self, py: Python<'_>, verb: Verb<'_>) -> Py<PyAny> {
        match verb.position() {
            Some(position) => self.verbs[position].clone_ref(py).into_any(),
            None => string(py, &verb.name()),
        }
    }

    fn parameters(&self, py: Python<'_>, parameters: &Parameters<'_>) -> PyResult<Py<PyAny>> {
        if parameters.is_empty() {
            return Ok(self.no_parameters.clone_ref(py).into_any());
        }
        let values = PyDict::new(py);
        for (keyword, value) in parameters.iter() {
            values.set_item(self.keyword(py, keyword), value.map(|value| self.word(py, value)))?;
        }
        Ok(values.into_any().unbind())
    }

    /// A keyword in upper case.
    fn keyword(&self, py: Python<'_>, keyword: &str) -> Py<PyAny> {
        if let Some(at) = FREQUENT.iter().position(|known| known.eq_ignore_ascii_case(keyword)) {
            return self.frequent[at].clone_ref(py).into_any();
        }
        string(py, &keyword.to_ascii_uppercase())
    }

    /// A parameter value, unchanged.
    fn word(&self, py: Python<'_>, value: &str) -> Py<PyAny> {
        match FREQUENT.iter().position(|known| *known == value) {
            Some(at) => self.frequent[at].clone_ref(py).into_any(),
            None => string(py, value),
        }
    }

    /// A `Mailbox`.
    pub(super) fn mailbox(&self, py: Python<'_>, mailbox: &Mailbox<'_>) -> PyResult<Py<PyAny>> {
        if mailbox.is_null() {
            return Ok(self.null_mailbox.clone_ref(py));
        }
        Ok(self
            .mailbox
            .build(py, [string(py, &mailbox.local_part), string(py, mailbox.domain)])?
            .unbind())
    }

    /// A `Fault`.
    pub(super) fn fault<'py>(&self, py: Python<'py>, fault: Fault) -> PyResult<Bound<'py, PyAny>> {
        let id = self.fault_ids[fault.id as usize].clone_ref(py).into_any();
        self.fault.build(py, [id, integer(py, fault.offset as u64)])
    }

    /// A `WireFault`, to be raised.
    #[cold]
    pub(super) fn wire_fault(&self, py: Python<'_>, fault: Fault) -> PyErr {
        PyErr::from_type(self.wire_fault.bind(py).clone(), (fault.id.id(), fault.offset))
    }

    /// `bytes`.
    #[inline]
    pub(super) fn bytes(&self, py: Python<'_>, octets: &[u8]) -> Py<PyAny> {
        if octets.is_empty() {
            return self.empty_bytes.clone_ref(py).into_any();
        }
        PyBytes::new(py, octets).into_any().unbind()
    }

    /// The bounds that a caller gave, or the default ones.
    pub(super) fn limits(&self, limits: Option<&Bound<'_, PyAny>>) -> PyResult<Limits> {
        let Some(limits) = limits.filter(|limits| !limits.is(&self.default_limits)) else {
            return Ok(Limits::DEFAULT);
        };
        if !limits.is_instance(self.limits.bind(limits.py()))? {
            let message = format!(
                "limits must be ironpost.wire.Limits or None, not {}",
                limits.get_type().name()?
            );
            return Err(PyTypeError::new_err(message));
        }
        Ok(Limits {
            command_line: bound(limits, "command_line")?,
            auth_line: bound(limits, "auth_line")?,
            held: bound(limits, "held")?,
            content: bound(limits, "content")? as u64,
            reply_lines: bound(limits, "reply_lines")?,
            reply_octets: bound(limits, "reply_octets")?,
            header_octets: bound(limits, "header_octets")?,
            header_fields: bound(limits, "header_fields")?,
        })
    }
}

/// One bound of `Limits`.
fn bound(limits: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    let value: i64 = limits.getattr(name)?.extract()?;
    usize::try_from(value)
        .map_err(|_| PyValueError::new_err(format!("limits.{name} must not be negative, got {value}")))
}

impl<const N: usize> Class<N> {
    fn new(interface: &Bound<'_, PyModule>, name: &str) -> PyResult<Self> {
        let py = interface.py();
        let class = interface.getattr(name)?.cast_into::<PyType>()?;
        let tuple = py.get_type::<PyTuple>();
        let same = |attribute: &str| class.getattr(attribute)?.eq(tuple.getattr(attribute)?);
        if !class.is_subclass_of::<PyTuple>()? || class.getattr("_fields")?.len()? != N {
            return Err(PyTypeError::new_err(format!(
                "{INTERFACE}.{name} is not a named tuple of {N} fields"
            )));
        }
        let laid_out_as_tuple = same("__basicsize__")? && same("__itemsize__")? && same("__dictoffset__")?;
        let mut this = Self {
            class: class.unbind(),
            direct: laid_out_as_tuple,
        };
        // A later Python may keep more in a tuple than its items (3.14: its hash). If so the probe differs.
        let probe = || std::array::from_fn(|_| py.None());
        if this.direct {
            let built = this.build(py, probe())?;
            this.direct = false;
            let expected = this.build(py, probe())?;
            this.direct = built.eq(&expected)? && built.hash()? == expected.hash()?;
        }
        Ok(this)
    }

    /// Whether an object is of this class.
    pub(super) fn is_class_of(&self, object: &Bound<'_, PyAny>) -> PyResult<bool> {
        object.is_instance(self.class.bind(object.py()))
    }

    /// An instance with these values.
    #[inline]
    pub(super) fn build<'py>(&self, py: Python<'py>, items: [Py<PyAny>; N]) -> PyResult<Bound<'py, PyAny>> {
        if !self.direct {
            return self.build_by_python(py, items);
        }
        // SAFETY: `class` is a subclass of tuple with tuple's own basicsize, itemsize and no __dict__ (checked in `new`),
        // so an instance is a PyTupleObject with N item slots and nothing else. PyType_GenericAlloc is what tuple's
        // tp_new calls for a subclass: it zeroes the object, sets its size to N, takes a reference to the class and
        // tells the collector, which skips empty slots. It returns a new reference or null with an exception set.
        let tuple = unsafe {
            let object = ffi::PyType_GenericAlloc(self.class.as_ptr().cast(), N as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, object)?
        };
        for (index, item) in items.into_iter().enumerate() {
            // SAFETY: `tuple` is a tuple whose only reference is ours and which no other code has seen, `index` is below
            // its size N, and the slot is empty; PyTuple_SetItem takes over the reference to `item`.
            unsafe { ffi::PyTuple_SetItem(tuple.as_ptr(), index as ffi::Py_ssize_t, item.into_ptr()) };
        }
        Ok(tuple)
    }

    /// The same by `tuple.__new__(class, items)`.
    #[cold]
    fn build_by_python<'py>(&self, py: Python<'py>, items: [Py<PyAny>; N]) -> PyResult<Bound<'py, PyAny>> {
        let items = PyTuple::new(py, items)?;
        py.get_type::<PyTuple>()
            .call_method1("__new__", (self.class.bind(py), items))
    }
}

/// A `str`.
#[inline]
pub(super) fn string(py: Python<'_>, text: &str) -> Py<PyAny> {
    PyString::new(py, text).into_any().unbind()
}

/// An `int`.
#[inline]
pub(super) fn integer(py: Python<'_>, value: u64) -> Py<PyAny> {
    value
        .into_pyobject(py)
        .map_or_else(|error| match error {}, |value| value.into_any().unbind())
}

/// A `bool`.
#[inline]
pub(super) fn boolean(py: Python<'_>, value: bool) -> Py<PyAny> {
    pyo3::types::PyBool::new(py, value).to_owned().into_any().unbind()
}

/// Octets from a caller: `bytes` without a copy, other buffers copied, so that they cannot change meanwhile.
pub(super) struct Octets<'py>(Bound<'py, PyBytes>);

impl<'py> Octets<'py> {
    /// Refuses anything but `bytes`, `bytearray` and `memoryview`.
    #[inline]
    pub(super) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self(bytes.clone())),
            Err(_) => Self::copy(object),
        }
    }

    /// The UTF-8 form of a `str`, or octets.
    pub(super) fn or_text(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyString>() {
            Ok(text) => Ok(Self(text.encode_utf8()?)),
            Err(_) => Self::new(object),
        }
    }

    #[cold]
    fn copy(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyByteArray>() || object.is_instance_of::<PyMemoryView>() {
            let copy = object.py().get_type::<PyBytes>().call1((object,))?;
            return Ok(Self(copy.cast_into::<PyBytes>()?));
        }
        let name = object.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "expected bytes, bytearray or memoryview, not {name}"
        )))
    }

    /// The octets.
    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The `bytes` object that holds them.
    #[inline]
    pub(super) fn as_bytes(&self) -> &Bound<'py, PyBytes> {
        &self.0
    }
}
