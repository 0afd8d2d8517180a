//! What functions there are: their libraries, what they take and what they give. What they do is in `library`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::types::Type;

/// A part of the language that an environment may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Core,
    Optional,
    /// The extension `strings` in its second version.
    Strings,
    /// What later versions of that extension have.
    LaterStrings,
    Sets,
    /// The extension `lists` in its third version.
    Lists,
    Math,
    Encoders,
    Bindings,
    /// The libraries of k8s.io/apiserver/pkg/cel/library.
    Kubernetes,
    JsonPatch,
}

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) receiver: bool,
    pub(crate) arguments: Vec<Type>,
    pub(crate) result: Type,
}

#[derive(Debug)]
pub(crate) struct Function {
    /// With the library that has it.
    pub(crate) overloads: Vec<(Library, Overload)>,
}

/// One function per line. `A` to `Z` are parameters; `a.(b) -> c` is called as a method of `a`.
const TABLES: &[(Library, &str)] = &[
    (
        Library::Core,
        "!_: (bool) -> bool
        -_: (int) -> int | (double) -> double
        _?_:_: (bool, A, A) -> A
        _[_]: (list(A), int) -> A | (map(A, B), A) -> B
        _==_: (A, A) -> bool
        _!=_: (A, A) -> bool
        _+_: (bytes, bytes) -> bytes | (double, double) -> double | (duration, duration) -> duration \
            | (duration, timestamp) -> timestamp | (timestamp, duration) -> timestamp | (int, int) -> int \
            | (list(A), list(A)) -> list(A) | (string, string) -> string | (uint, uint) -> uint
        _-_: (double, double) -> double | (duration, duration) -> duration | (int, int) -> int | (timestamp, duration) -> timestamp \
            | (timestamp, timestamp) -> duration | (uint, uint) -> uint
        _*_: (double, double) -> double | (int, int) -> int | (uint, uint) -> uint
        _/_: (double, double) -> double | (int, int) -> int | (uint, uint) -> uint
        _%_: (int, int) -> int | (uint, uint) -> uint
        @in: (A, list(A)) -> bool | (A, map(A, B)) -> bool
        size: (bytes) -> int | bytes.() -> int | (list(A)) -> int | list(A).() -> int | (map(A, B)) -> int | map(A, B).() -> int \
            | (string) -> int | string.() -> int
        type: (A) -> type(A)
        dyn: (A) -> dyn
        int: (int) -> int | (double) -> int | (duration) -> int | (string) -> int | (timestamp) -> int | (uint) -> int
        uint: (uint) -> uint | (double) -> uint | (int) -> uint | (string) -> uint
        double: (double) -> double | (int) -> double | (string) -> double | (uint) -> double
        bool: (bool) -> bool | (string) -> bool
        bytes: (bytes) -> bytes | (string) -> bytes
        string: (string) -> string | (bool) -> string | (bytes) -> string | (double) -> string | (duration) -> string | (int) -> string \
            | (timestamp) -> string | (uint) -> string
        timestamp: (timestamp) -> timestamp | (int) -> timestamp | (string) -> timestamp
        duration: (duration) -> duration | (int) -> duration | (string) -> duration
        contains: string.(string) -> bool
        startsWith: string.(string) -> bool
        endsWith: string.(string) -> bool
        matches: (string, string) -> bool | string.(string) -> bool
        getFullYear: timestamp.() -> int | timestamp.(string) -> int
        getMonth: timestamp.() -> int | timestamp.(string) -> int
        getDayOfYear: timestamp.() -> int | timestamp.(string) -> int
        getDayOfMonth: timestamp.() -> int | timestamp.(string) -> int
        getDate: timestamp.() -> int | timestamp.(string) -> int
        getDayOfWeek: timestamp.() -> int | timestamp.(string) -> int
        getHours: timestamp.() -> int | timestamp.(string) -> int | duration.() -> int
        getMinutes: timestamp.() -> int | timestamp.(string) -> int | duration.() -> int
        getSeconds: timestamp.() -> int | timestamp.(string) -> int | duration.() -> int
        getMilliseconds: timestamp.() -> int | timestamp.(string) -> int | duration.() -> int",
    ),
    (
        Library::Optional,
        "_[_]: (optional(list(A)), int) -> optional(A) | (optional(map(A, B)), A) -> optional(B)
        _[?_]: (list(A), int) -> optional(A) | (optional(list(A)), int) -> optional(A) | (map(A, B), A) -> optional(B) \
            | (optional(map(A, B)), A) -> optional(B)
        optional.of: (A) -> optional(A)
        optional.ofNonZeroValue: (A) -> optional(A)
        optional.none: () -> optional(A)
        optional.unwrap: (list(optional(A))) -> list(A)
        unwrapOpt: list(optional(A)).() -> list(A)
        value: optional(A).() -> A
        hasValue: optional(A).() -> bool
        or: optional(A).(optional(A)) -> optional(A)
        orValue: optional(A).(A) -> A
        first: list(A).() -> optional(A)
        last: list(A).() -> optional(A)",
    ),
    (
        Library::Strings,
        "charAt: string.(int) -> string
        indexOf: string.(string) -> int | string.(string, int) -> int
        lastIndexOf: string.(string) -> int | string.(string, int) -> int
        join: list(string).() -> string | list(string).(string) -> string
        lowerAscii: string.() -> string
        upperAscii: string.() -> string
        replace: string.(string, string) -> string | string.(string, string, int) -> string
        split: string.(string) -> list(string) | string.(string, int) -> list(string)
        substring: string.(int) -> string | string.(int, int) -> string
        trim: string.() -> string
        format: string.(list(dyn)) -> string
        strings.quote: (string) -> string",
    ),
    (Library::LaterStrings, "reverse: string.() -> string"),
    (
        Library::Sets,
        "sets.contains: (list(A), list(A)) -> bool
        sets.equivalent: (list(A), list(A)) -> bool
        sets.intersects: (list(A), list(A)) -> bool",
    ),
    (
        Library::Lists,
        "slice: list(A).(int, int) -> list(A)
        flatten: list(list(A)).() -> list(A) | list(dyn).(int) -> list(dyn)
        lists.range: (int) -> list(int)
        reverse: list(A).() -> list(A)
        distinct: list(A).() -> list(A)
        sort: list(int).() -> list(int) | list(uint).() -> list(uint) | list(double).() -> list(double) | list(bool).() -> list(bool) \
            | list(duration).() -> list(duration) | list(timestamp).() -> list(timestamp) | list(string).() -> list(string) \
            | list(bytes).() -> list(bytes)
        @sortByAssociatedKeys: list(A).(list(int)) -> list(A) | list(A).(list(uint)) -> list(A) | list(A).(list(double)) -> list(A) \
            | list(A).(list(bool)) -> list(A) | list(A).(list(duration)) -> list(A) | list(A).(list(timestamp)) -> list(A) \
            | list(A).(list(string)) -> list(A) | list(A).(list(bytes)) -> list(A)",
    ),
    (
        Library::Math,
        "math.ceil: (double) -> double
        math.floor: (double) -> double
        math.round: (double) -> double
        math.trunc: (double) -> double
        math.abs: (int) -> int | (uint) -> uint | (double) -> double
        math.sign: (int) -> int | (uint) -> uint | (double) -> double
        math.sqrt: (int) -> double | (uint) -> double | (double) -> double
        math.isNaN: (double) -> bool
        math.isInf: (double) -> bool
        math.isFinite: (double) -> bool
        math.bitAnd: (int, int) -> int | (uint, uint) -> uint
        math.bitOr: (int, int) -> int | (uint, uint) -> uint
        math.bitXor: (int, int) -> int | (uint, uint) -> uint
        math.bitNot: (int) -> int | (uint) -> uint
        math.bitShiftLeft: (int, int) -> int | (uint, int) -> uint
        math.bitShiftRight: (int, int) -> int | (uint, int) -> uint",
    ),
    (
        Library::Encoders,
        "base64.encode: (bytes) -> string
        base64.decode: (string) -> bytes",
    ),
    (
        Library::Kubernetes,
        "isSorted: list(int).() -> bool | list(uint).() -> bool | list(double).() -> bool | list(bool).() -> bool | list(duration).() -> bool \
            | list(timestamp).() -> bool | list(string).() -> bool | list(bytes).() -> bool
        sum: list(int).() -> int | list(uint).() -> uint | list(double).() -> double | list(duration).() -> duration
        max: list(int).() -> int | list(uint).() -> uint | list(double).() -> double | list(bool).() -> bool | list(duration).() -> duration \
            | list(timestamp).() -> timestamp | list(string).() -> string | list(bytes).() -> bytes
        min: list(int).() -> int | list(uint).() -> uint | list(double).() -> double | list(bool).() -> bool | list(duration).() -> duration \
            | list(timestamp).() -> timestamp | list(string).() -> string | list(bytes).() -> bytes
        indexOf: list(A).(A) -> int
        lastIndexOf: list(A).(A) -> int
        find: string.(string) -> string
        findAll: string.(string) -> list(string) | string.(string, int) -> list(string)
        url: (string) -> kubernetes.URL
        isURL: (string) -> bool
        getScheme: kubernetes.URL.() -> string
        getHost: kubernetes.URL.() -> string
        getHostname: kubernetes.URL.() -> string
        getPort: kubernetes.URL.() -> string
        getEscapedPath: kubernetes.URL.() -> string
        getQuery: kubernetes.URL.() -> map(string, list(string))
        quantity: (string) -> kubernetes.Quantity
        isQuantity: (string) -> bool
        sign: kubernetes.Quantity.() -> int
        isGreaterThan: kubernetes.Quantity.(kubernetes.Quantity) -> bool | kubernetes.Semver.(kubernetes.Semver) -> bool
        isLessThan: kubernetes.Quantity.(kubernetes.Quantity) -> bool | kubernetes.Semver.(kubernetes.Semver) -> bool
        compareTo: kubernetes.Quantity.(kubernetes.Quantity) -> int | kubernetes.Semver.(kubernetes.Semver) -> int
        asApproximateFloat: kubernetes.Quantity.() -> double
        asInteger: kubernetes.Quantity.() -> int
        isInteger: kubernetes.Quantity.() -> bool
        add: kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity | kubernetes.Quantity.(int) -> kubernetes.Quantity
        sub: kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity | kubernetes.Quantity.(int) -> kubernetes.Quantity
        semver: (string) -> kubernetes.Semver | (string, bool) -> kubernetes.Semver
        isSemver: (string) -> bool | (string, bool) -> bool
        major: kubernetes.Semver.() -> int
        minor: kubernetes.Semver.() -> int
        patch: kubernetes.Semver.() -> int
        ip: (string) -> net.IP | net.CIDR.() -> net.IP
        isIP: (string) -> bool
        ip.isCanonical: (string) -> bool
        family: net.IP.() -> int
        isUnspecified: net.IP.() -> bool
        isLoopback: net.IP.() -> bool
        isLinkLocalMulticast: net.IP.() -> bool
        isLinkLocalUnicast: net.IP.() -> bool
        isGlobalUnicast: net.IP.() -> bool
        cidr: (string) -> net.CIDR
        isCIDR: (string) -> bool
        containsIP: net.CIDR.(string) -> bool | net.CIDR.(net.IP) -> bool
        containsCIDR: net.CIDR.(string) -> bool | net.CIDR.(net.CIDR) -> bool
        masked: net.CIDR.() -> net.CIDR
        prefixLength: net.CIDR.() -> int
        string: (net.IP) -> string | (net.CIDR) -> string
        validate: kubernetes.NamedFormat.(string) -> optional(list(string))
        format.named: (string) -> optional(kubernetes.NamedFormat)
        format.dns1123Label: () -> kubernetes.NamedFormat
        format.dns1123Subdomain: () -> kubernetes.NamedFormat
        format.dns1035Label: () -> kubernetes.NamedFormat
        format.qualifiedName: () -> kubernetes.NamedFormat
        format.dns1123LabelPrefix: () -> kubernetes.NamedFormat
        format.dns1123SubdomainPrefix: () -> kubernetes.NamedFormat
        format.dns1035LabelPrefix: () -> kubernetes.NamedFormat
        format.labelValue: () -> kubernetes.NamedFormat
        format.uri: () -> kubernetes.NamedFormat
        format.uuid: () -> kubernetes.NamedFormat
        format.byte: () -> kubernetes.NamedFormat
        format.date: () -> kubernetes.NamedFormat
        format.datetime: () -> kubernetes.NamedFormat",
    ),
    (Library::JsonPatch, "jsonpatch.escapeKey: (string) -> string"),
];

/// Types that `<` and its like take.
const ORDERED: [&str; 8] = ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"];
const NUMBERS: [&str; 3] = ["int", "uint", "double"];

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    static ALL: OnceLock<HashMap<String, Function>> = OnceLock::new();
    ALL.get_or_init(all).get(name)
}

/// Whether any environment has a function of this name.
pub(crate) fn is_known(name: &str) -> bool {
    find(name).is_some()
}

fn all() -> HashMap<String, Function> {
    let mut out: HashMap<String, Function> = HashMap::new();
    let mut add = |library: Library, name: &str, signatures: &str| {
        let overloads = &mut out.entry(name.into()).or_insert_with(|| Function { overloads: Vec::new() }).overloads;
        overloads.extend(signatures.split(" | ").map(|s| (library, read(s))));
    };
    for (library, table) in TABLES {
        for line in table.lines() {
            if let Some((name, signatures)) = line.trim().split_once(": ") {
                add(*library, name, signatures);
            }
        }
    }
    for sign in ["_<_", "_<=_", "_>_", "_>=_"] {
        for ty in ORDERED {
            add(Library::Core, sign, &format!("({ty}, {ty}) -> bool"));
        }
        // Numbers of different types are comparable with each other.
        for (a, b) in NUMBERS.into_iter().flat_map(|a| NUMBERS.map(|b| (a, b))).filter(|(a, b)| a != b) {
            add(Library::Core, sign, &format!("({a}, {b}) -> bool"));
        }
    }
    for extreme in ["math.greatest", "math.least"] {
        for n in 2..32 {
            add(Library::Math, extreme, &format!("({}) -> dyn", vec!["dyn"; n].join(", ")));
        }
        for ty in NUMBERS {
            add(Library::Math, extreme, &format!("({ty}) -> {ty} | (list({ty})) -> {ty}"));
        }
    }
    out
}

/// Reads `string.(int, A) -> list(A)`. The tables are this file's own, so what cannot be read is taken as `dyn`.
fn read(signature: &str) -> Overload {
    let (taken, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
    let (receiver, inside) = match taken.split_once(".(") {
        Some((receiver, inside)) => (Some(receiver.trim()), inside),
        None => (None, taken.trim().trim_start_matches('(')),
    };
    let inside = inside.trim().strip_suffix(')').unwrap_or(inside);
    let arguments = receiver.into_iter().chain(split(inside)).map(read_type).collect();
    Overload { receiver: receiver.is_some(), arguments, result: read_type(result.trim()) }
}

/// Parts between the commas that are in no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(text[start..].trim());
    out.retain(|part| !part.is_empty());
    out
}

pub(crate) fn read_type(text: &str) -> Type {
    let (name, inside) = match text.split_once('(') {
        Some((name, rest)) => (name, split(rest.strip_suffix(')').unwrap_or(rest))),
        None => (text, Vec::new()),
    };
    let mut inner = inside.into_iter().map(read_type);
    let mut next = || inner.next().unwrap_or(Type::Dyn);
    match (name, name.as_bytes()) {
        (_, [letter @ b'A'..=b'Z']) => Type::Param(u32::from(letter - b'A')),
        ("list", _) => Type::list(next()),
        ("map", _) => Type::map(next(), next()),
        ("optional", _) => Type::optional(next()),
        ("type", _) => Type::Type(Some(Arc::new(next()))),
        ("dyn", _) => Type::Dyn,
        ("null", _) => Type::Null,
        ("timestamp", _) => Type::Timestamp,
        ("duration", _) => Type::Duration,
        (name, _) => Type::called(name).unwrap_or_else(|| Type::Named(name.into(), inner.collect())),
    }
}

/// Reads functions that are only in one environment, one per line.
pub(crate) fn read_functions(text: &str) -> Vec<(String, Function)> {
    let line = |line: &str| {
        let (name, signatures) = line.trim().split_once(": ")?;
        Some((name.to_string(), Function { overloads: signatures.split(" | ").map(|s| (Library::Core, read(s))).collect() }))
    };
    text.lines().filter_map(line).collect()
}
