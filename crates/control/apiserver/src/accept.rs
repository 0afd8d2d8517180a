//! Content negotiation: which encoding and shape of those that there are a client takes. Pure; see apiserver's negotiation package and
//! goautoneg.

use fram_machinery::{Reason, Status};
use http::{HeaderMap, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// The media type of protobuf bodies.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Of CBOR bodies, and of sequences of them.
pub(crate) const CBOR: &str = "application/cbor";
pub(crate) const CBOR_SEQUENCE: &str = "application/cbor-seq";
/// What is accepted and produced, as errors say it.
pub(crate) const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor";
const STREAM_TYPES: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch, application/cbor-seq";

impl Encoding {
    /// In the order in which a wildcard finds them.
    const ALL: [Self; 4] = [Self::Json, Self::Yaml, Self::Protobuf, Self::Cbor];

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => PROTOBUF,
            Self::Cbor => CBOR,
        }
    }

    /// How a watch says it; YAML has no frames.
    pub(crate) fn stream_type(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("application/json"),
            Self::Yaml => None,
            Self::Protobuf => Some("application/vnd.kubernetes.protobuf;stream=watch"),
            Self::Cbor => Some(CBOR_SEQUENCE),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Table,
    Partial,
    /// Discovery only: all groups in one document.
    Aggregated,
}

/// What is asked for: what can be had differs by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Objects,
    /// Objects of custom resources, which have no protobuf form of their own.
    CustomObjects,
    Discovery,
    /// What has one shape: errors.
    Plain,
}

impl Endpoint {
    /// See AllowsMediaTypeTransform.
    fn has(self, encoding: Encoding, shape: Shape) -> bool {
        match (self, shape) {
            (Self::CustomObjects, Shape::Plain) => encoding != Encoding::Protobuf,
            (_, Shape::Plain) => true,
            (Self::Objects | Self::CustomObjects, Shape::Table) => matches!(encoding, Encoding::Json | Encoding::Yaml),
            (Self::Objects | Self::CustomObjects, Shape::Partial) => true,
            (Self::Discovery, Shape::Aggregated) => true,
            _ => false,
        }
    }
}

/// What the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
    /// Tables and partial metadata in the version v1beta1 of meta.k8s.io, which says the same.
    pub(crate) beta: bool,
}

/// One range of an Accept header.
struct Clause<'a> {
    ty: &'a str,
    subtype: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Accept {
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Plain, beta: false };

    /// The same encoding for what has one shape.
    pub(crate) fn plain(self) -> Self {
        Self { encoding: self.encoding, ..Self::JSON }
    }

    pub(crate) fn negotiate(headers: &HeaderMap, endpoint: Endpoint) -> Result<Self, Status> {
        let refused = || Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {MEDIA_TYPES}"));
        Self::choose(&text(headers), endpoint, false).ok_or_else(refused)
    }

    /// For a watch, whose answer is a stream of frames.
    pub(crate) fn negotiate_stream(headers: &HeaderMap, endpoint: Endpoint) -> Result<Self, Status> {
        let found = Self::choose(&text(headers), endpoint, true).filter(|a| a.encoding.stream_type().is_some());
        found.ok_or_else(|| Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {STREAM_TYPES}")))
    }

    fn choose(text: &str, endpoint: Endpoint, stream: bool) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Self::JSON);
        }
        let takes = |clause: &Clause, encoding: Encoding| {
            let (ty, subtype) = encoding.media_type().split_once('/')?;
            let sequence = stream && encoding == Encoding::Cbor && clause.subtype == "cbor-seq";
            let matches = clause.ty == ty && (clause.subtype == subtype || clause.subtype == "*" || sequence)
                || clause.ty == "*" && clause.subtype == "*";
            let (shape, beta) = clause.shape(encoding).filter(|(shape, _)| matches && endpoint.has(encoding, *shape))?;
            Some(Self { encoding, shape, beta })
        };
        parse(text).iter().find_map(|clause| Encoding::ALL.into_iter().find_map(|encoding| takes(clause, encoding)))
    }
}

fn text(headers: &HeaderMap) -> String {
    headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",")
}

impl Clause<'_> {
    /// What the parameters ask for, and whether in a beta version; None where there is no such thing.
    fn shape(&self, encoding: Encoding) -> Option<(Shape, bool)> {
        let of = |name: &str| self.parameters.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| *v);
        if of("stream").is_some_and(|s| !s.is_empty() && (s != "watch" || encoding.stream_type().is_none()))
            || of("sv").is_some_and(|v| !v.is_empty())
        {
            return None;
        }
        if of("as").is_none() && of("g").is_none() && of("v").is_none() {
            return Some((Shape::Plain, false));
        }
        match (of("g").unwrap_or_default(), of("v").unwrap_or_default(), of("as").unwrap_or_default()) {
            ("meta.k8s.io", version @ ("v1" | "v1beta1"), "Table") => Some((Shape::Table, version == "v1beta1")),
            ("meta.k8s.io", version @ ("v1" | "v1beta1"), "PartialObjectMetadata" | "PartialObjectMetadataList") => {
                Some((Shape::Partial, version == "v1beta1"))
            }
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => Some((Shape::Aggregated, false)),
            _ => None,
        }
    }

    /// Whether this one is asked before another; goautoneg's rule, by which a wildcard stands behind what it is compared with.
    fn precedes(&self, other: &Self) -> bool {
        self.quality > other.quality || self.ty != "*" && other.ty == "*" || self.subtype != "*" && other.subtype == "*"
    }
}

/// Nobody has more wishes than this; what follows them is not looked at, since sorting takes the square of their number.
const MOST_CLAUSES: usize = 100;

/// The ranges of an Accept header in the order in which they are asked.
fn parse(text: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause> = text.split(',').take(MOST_CLAUSES).filter_map(clause).collect();
    // The rule is no order in the strict sense, so how it is sorted by counts: by insertion, as Go sorts what is short.
    for i in 1..all.len() {
        for j in (1..=i).rev() {
            if !all[j].precedes(&all[j - 1]) {
                break;
            }
            all.swap(j, j - 1);
        }
    }
    all
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(|p| p.trim_matches(' '));
    let range = parts.next()?;
    let (ty, subtype) = match range.split_once('/') {
        Some((ty, subtype)) if !subtype.contains('/') && !subtype.is_empty() => (ty.trim_matches(' '), subtype.trim_matches(' ')),
        None if range == "*" => ("*", "*"),
        _ => return None,
    };
    let mut out = Clause { ty, subtype, quality: 1.0, parameters: Vec::new() };
    for (name, value) in parts.filter_map(|p| p.split_once('=')).filter(|(_, v)| !v.is_empty() && !v.contains('=')) {
        match name.trim_matches(' ') {
            "q" => out.quality = value.trim_matches(' ').parse().unwrap_or(0.0),
            name => out.parameters.push((name, value.trim_matches(' '))),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "as=Table;v=v1;g=meta.k8s.io";
    const PARTIAL: &str = "as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

    #[track_caller]
    fn check(accept: &str, endpoint: Endpoint, expect: Option<(Encoding, Shape)>) {
        let found = Accept::choose(accept, endpoint, false).map(|a| (a.encoding, a.shape));
        assert_eq!(found, expect, "{accept}");
    }

    #[test]
    fn the_best_of_what_there_is_is_taken() {
        use Encoding::*;
        for (accept, expect) in [
            ("", Some(Json)),
            ("*/*", Some(Json)),
            ("*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/yaml", Some(Yaml)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Protobuf)),
            ("application/json;q=0.5,application/cbor;q=0.9", Some(Cbor)),
            ("application/json;q=0.5, application/yaml;q=0.5", Some(Json)),
            ("text/html, */*;q=0.1", Some(Json)),
            ("*/*, application/cbor;q=0.1", Some(Cbor)),
            ("text/plain,application/yaml;charset=utf-8", Some(Yaml)),
            ("application/json;stream=watch", Some(Json)),
            ("application/json;stream=other", None),
            ("application/json;sv=v1", None),
            ("text/html", None),
            ("application/cbor-seq", None),
            ("application", None),
        ] {
            check(accept, Endpoint::Objects, expect.map(|e| (e, Shape::Plain)));
        }
    }

    #[test]
    fn wishes_without_end_are_not_sorted() {
        let many = "*/*,".repeat(100_000) + &"application/yaml,".repeat(100_000);
        assert_eq!(parse(&many).len(), MOST_CLAUSES);
    }

    #[test]
    fn shapes_are_had_where_they_exist() {
        use Encoding::*;
        let json_table = format!("application/json;{TABLE}");
        check(&json_table, Endpoint::Objects, Some((Json, Shape::Table)));
        check(&json_table, Endpoint::CustomObjects, Some((Json, Shape::Table)));
        check(&json_table, Endpoint::Plain, None);
        check(&format!("{json_table},application/json"), Endpoint::Plain, Some((Json, Shape::Plain)));
        check(&format!("{PROTOBUF};{TABLE},{json_table}"), Endpoint::Objects, Some((Json, Shape::Table)));
        check(&format!("{CBOR};{TABLE}"), Endpoint::Objects, None);
        for (media, encoding) in [(PROTOBUF, Protobuf), (CBOR, Cbor), ("application/yaml", Yaml)] {
            check(&format!("{media};{PARTIAL}"), Endpoint::CustomObjects, Some((encoding, Shape::Partial)));
        }
        check(PROTOBUF, Endpoint::CustomObjects, None);
        let beta = Accept::choose("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Endpoint::Objects, false).unwrap();
        assert_eq!((beta.shape, beta.beta), (Shape::Table, true));
        check("application/json;as=Table;v=v2;g=meta.k8s.io", Endpoint::Objects, None);
        check("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", Endpoint::Discovery, Some((Json, Shape::Aggregated)));
    }

    #[test]
    fn a_watch_has_frames() {
        let stream = |accept: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            Accept::negotiate_stream(&headers, Endpoint::Objects).map(|a| a.encoding)
        };
        assert_eq!(stream("application/cbor-seq"), Ok(Encoding::Cbor));
        assert_eq!(stream("application/cbor"), Ok(Encoding::Cbor));
        assert_eq!(stream("application/vnd.kubernetes.protobuf;stream=watch"), Ok(Encoding::Protobuf));
        let refused = stream("application/yaml").unwrap_err();
        assert_eq!(refused.code, 406);
        assert!(refused.message.ends_with(STREAM_TYPES), "{}", refused.message);
    }
}
