//! YAML in and out of the object tree, through serde.

use crate::value::Value;

#[derive(Debug, thiserror::Error)]
#[error("error converting YAML to JSON: {0}")]
pub struct YamlError(String);

/// Parses one YAML document.
pub fn from_str(text: &str) -> Result<Value, YamlError> {
    serde_saphyr::from_str(text).map_err(|e| YamlError(e.to_string()))
}

/// Parses one YAML document in which keys may stand twice: the last one wins. Returns also what Go's decoder says of the
/// first that does.
pub fn lenient(text: &str) -> Result<(Value, Option<String>), YamlError> {
    use serde_saphyr::options::DuplicateKeyPolicy::LastWins;
    let error = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, None)),
        Err(error) => error,
    };
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        return Err(YamlError(error.to_string()));
    };
    let problem = format!("line {}: key {:?} already set in map", location.line(), key.as_deref().unwrap_or_default());
    let value = serde_saphyr::from_str_with_options(text, serde_saphyr::options! { duplicate_keys: LastWins });
    Ok((value.map_err(|e| YamlError(e.to_string()))?, Some(problem)))
}

/// Parses a stream of YAML documents; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| YamlError(e.to_string()))?;
    Ok(all.into_iter().filter(|v| !v.is_null()).collect())
}

pub fn to_string(value: &Value) -> Result<String, YamlError> {
    serde_saphyr::to_string(value).map_err(|e| YamlError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn scalars_keep_their_types() {
        let tree = from_str("a: 1\nb: \"1\"\nc: true\nd: 1.5\ne: null\nf: [x, 'true']\ng: |\n  text\n").unwrap();
        let expect = object!({ "a": 1, "b": "1", "c": true, "d": 1.5, "e": null, "f": ["x", "true"], "g": "text\n" });
        assert_eq!(tree, expect);
        assert_eq!(from_str(&to_string(&tree).unwrap()).unwrap(), tree);
    }

    #[test]
    fn a_key_that_stands_twice_is_named_and_its_last_value_wins() {
        let (value, problem) = lenient("a:\n  b: 1\n  b: 2\n").unwrap();
        assert_eq!(value, object!({ "a": { "b": 2 } }));
        assert_eq!(problem.as_deref(), Some("line 3: key \"b\" already set in map"));
        assert_eq!(lenient("a: 1").unwrap().1, None);
    }

    #[test]
    fn malformed_documents_are_refused() {
        assert!(from_str("a: [1").is_err());
        assert!(from_str("a: 1\n b: 2\n").is_err());
    }

    #[test]
    fn a_stream_has_several_documents() {
        assert_eq!(documents("a: 1\n---\n---\nb: 2\n").unwrap().len(), 2);
    }
}
