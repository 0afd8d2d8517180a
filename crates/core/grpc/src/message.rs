//! Messages as tables: a type says once which of its fields has which number, by the macros [`message!`] and [`messages!`], and is
//! written and read by that. What a field holds is decided by its Rust type. Pure; proto3 only.
//!
//! A message that is a field by itself is always written, since its presence says something; in an `Option` it may be absent.
//! `Option` of a number stands for the wrapper messages `Int64Value` and `UInt64Value`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::wire::{Field, Malformed, Writer, fields};

/// A value whose fields have numbers.
pub trait Message: Default {
    /// Appends the fields.
    fn write(&self, writer: &mut Writer);

    /// Takes in one field; one that is not known is left out.
    fn read(&mut self, number: u64, field: Field<'_>) -> Result<(), Malformed>;

    /// Gives each field the value that it has on the wire where it is absent, which is not its type's default everywhere.
    fn clear(&mut self);

    /// What a message without any field says.
    fn empty() -> Self {
        let mut message = Self::default();
        message.clear();
        message
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::empty();
        message.merge(bytes)?;
        Ok(message)
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in fields(bytes) {
            let (number, field) = field?;
            self.read(number, field)?;
        }
        Ok(())
    }
}

/// What may stand in a field.
pub trait Content {
    fn put(&self, number: u64, writer: &mut Writer);

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed>;

    /// See [`Message::clear`].
    fn clear(&mut self) {}
}

impl<M: Message> Content for M {
    fn put(&self, number: u64, writer: &mut Writer) {
        let mut inner = Writer::default();
        self.write(&mut inner);
        writer.put_piece(number, &inner.0);
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.merge(field.bytes()?)
    }

    fn clear(&mut self) {
        Message::clear(self);
    }
}

impl<M: Message> Content for Option<M> {
    fn put(&self, number: u64, writer: &mut Writer) {
        if let Some(message) = self {
            message.put(number, writer);
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.get_or_insert_with(M::empty).take(field)
    }
}

impl<M: Message> Content for Vec<M> {
    fn put(&self, number: u64, writer: &mut Writer) {
        self.iter().for_each(|message| message.put(number, writer));
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.push(M::decode(field.bytes()?)?);
        Ok(())
    }
}

impl Content for () {
    fn put(&self, _: u64, _: &mut Writer) {}

    fn take(&mut self, _: Field<'_>) -> Result<(), Malformed> {
        Ok(())
    }
}

impl Content for String {
    fn put(&self, number: u64, writer: &mut Writer) {
        if !self.is_empty() {
            writer.put_piece(number, self.as_bytes());
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        *self = field.text()?;
        Ok(())
    }
}

/// Empty is absent.
impl Content for Option<String> {
    fn put(&self, number: u64, writer: &mut Writer) {
        if let Some(text) = self {
            text.put(number, writer);
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        *self = Some(field.text()?).filter(|text| !text.is_empty());
        Ok(())
    }
}

impl Content for Vec<String> {
    fn put(&self, number: u64, writer: &mut Writer) {
        self.iter().for_each(|text| writer.put_piece(number, text.as_bytes()));
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        self.push(field.text()?);
        Ok(())
    }
}

impl Content for Vec<u8> {
    fn put(&self, number: u64, writer: &mut Writer) {
        if !self.is_empty() {
            writer.put_piece(number, self);
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        *self = field.bytes()?.to_vec();
        Ok(())
    }
}

impl Content for BTreeMap<String, String> {
    fn put(&self, number: u64, writer: &mut Writer) {
        for (key, value) in self {
            let entry = Writer::default().bytes(1, key.as_bytes()).bytes(2, value.as_bytes());
            writer.put_piece(number, &entry.0);
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        let (key, value) = field.entry()?;
        self.insert(key, String::from_utf8(value).map_err(|_| Malformed)?);
        Ok(())
    }
}

/// An address as text; empty is absent.
impl Content for Option<IpAddr> {
    fn put(&self, number: u64, writer: &mut Writer) {
        if let Some(address) = self {
            address.to_string().put(number, writer);
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        let text = field.text()?;
        *self = if text.is_empty() { None } else { Some(text.parse().map_err(|_| Malformed)?) };
        Ok(())
    }
}

/// A number that fits into a varint; negative ones take ten bytes, as proto3 has it.
trait Number: Copy + Default + PartialEq {
    fn to_wire(self) -> u64;
    fn from_wire(wire: u64) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty, |$to:ident| $to_wire:expr, |$from:ident| $from_wire:expr;)*) => {$(
        impl Number for $number {
            fn to_wire(self) -> u64 {
                let $to = self;
                $to_wire
            }

            fn from_wire($from: u64) -> Result<Self, Malformed> {
                $from_wire
            }
        }

        impl Content for $number {
            fn put(&self, number: u64, writer: &mut Writer) {
                writer.put_number(number, self.to_wire());
            }

            fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
                *self = Self::from_wire(field.number()?)?;
                Ok(())
            }
        }

        impl Content for Option<$number> {
            fn put(&self, number: u64, writer: &mut Writer) {
                if let Some(value) = self {
                    let mut inner = Writer::default();
                    value.put(1, &mut inner);
                    writer.put_piece(number, &inner.0);
                }
            }

            fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
                let value = self.get_or_insert_default();
                fields(field.bytes()?).try_for_each(|inner| match inner? {
                    (1, field) => value.take(field),
                    _ => Ok(()),
                })
            }
        }

        impl Content for Vec<$number> {
            fn put(&self, number: u64, writer: &mut Writer) {
                if !self.is_empty() {
                    let mut packed = Writer::default();
                    self.iter().for_each(|value| packed.put_varint(value.to_wire()));
                    writer.put_piece(number, &packed.0);
                }
            }

            fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
                for value in field.packed() {
                    self.push(<$number>::from_wire(value?)?);
                }
                Ok(())
            }
        }
    )*};
}

numbers! {
    u64, |n| n, |w| Ok(w);
    i64, |n| n as u64, |w| Ok(w as i64);
    u32, |n| n.into(), |w| Ok(w as u32);
    i32, |n| i64::from(n) as u64, |w| Ok(w as i32);
    // The wire has no such number: what does not fit is not what was meant.
    u16, |n| n.into(), |w| u16::try_from(w).map_err(|_| Malformed);
    bool, |n| n.into(), |w| Ok(w != 0);
}

impl Content for f64 {
    fn put(&self, number: u64, writer: &mut Writer) {
        if *self != 0.0 {
            writer.put_fixed64(number, self.to_le_bytes());
        }
    }

    fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
        *self = f64::from_le_bytes(field.bytes()?.try_into().map_err(|_| Malformed)?);
        Ok(())
    }
}

/// Gives a type its table of fields.
///
/// - `name = 3`: the field `name` has the number 3.
/// - `name = 3 as Form`: it stands on the wire as `Form`, which is made of it by `From<&_>` and gives it back by `Into`.
/// - `{ … } = 3`: the fields in braces are in a message of their own there, which the type does not tell apart.
#[macro_export]
macro_rules! message {
    ($type:ty { $($fields:tt)* }) => {
        impl $crate::message::Message for $type {
            #[allow(unused_variables, reason = "messages without fields are messages too")]
            fn write(&self, writer: &mut $crate::wire::Writer) {
                $crate::write_fields!(self writer; $($fields)*);
            }

            #[allow(unused_variables, reason = "messages without fields are messages too")]
            fn read(&mut self, number: u64, field: $crate::wire::Field<'_>) -> Result<(), $crate::wire::Malformed> {
                $crate::read_fields!(self number field; $($fields)*);
                Ok(())
            }

            fn clear(&mut self) {
                $crate::clear_fields!(self; $($fields)*);
            }
        }
    };
}

/// Defines types and gives them their tables: `Name { field: Type = 1, … }`.
#[macro_export]
macro_rules! messages {
    ($($(#[$meta:meta])* $vis:vis $name:ident { $($field:ident : $type:ty = $number:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        $vis struct $name { $(pub $field: $type),* }
        $crate::message!($name { $($field = $number,)* });
    )*};
}

/// Gives an enumeration its numbers, from 0 on; one that is not known is malformed.
#[macro_export]
macro_rules! enumeration {
    ($type:ty { $first:ident = 0 $(, $variant:ident = $number:literal)* $(,)? }) => {
        impl $crate::message::Content for $type {
            fn put(&self, number: u64, writer: &mut $crate::wire::Writer) {
                writer.put_number(number, match self { <$type>::$first => 0, $(<$type>::$variant => $number),* });
            }

            fn take(&mut self, field: $crate::wire::Field<'_>) -> Result<(), $crate::wire::Malformed> {
                *self = match field.number()? {
                    0 => <$type>::$first,
                    $($number => <$type>::$variant,)*
                    _ => return Err($crate::wire::Malformed),
                };
                Ok(())
            }

            fn clear(&mut self) {
                *self = <$type>::$first;
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! write_fields {
    ($self:ident $writer:ident;) => {};
    ($self:ident $writer:ident; $name:ident = $number:literal as $form:ty $(, $($rest:tt)*)?) => {
        $crate::message::Content::put(&<$form>::from(&$self.$name), $number, $writer);
        $crate::write_fields!($self $writer; $($($rest)*)?);
    };
    ($self:ident $writer:ident; $name:ident = $number:literal $(, $($rest:tt)*)?) => {
        $crate::message::Content::put(&$self.$name, $number, $writer);
        $crate::write_fields!($self $writer; $($($rest)*)?);
    };
    ($self:ident $writer:ident; { $($inner:tt)* } = $number:literal $(, $($rest:tt)*)?) => {
        {
            let mut inner = $crate::wire::Writer::default();
            let group = &mut inner;
            $crate::write_fields!($self group; $($inner)*);
            $writer.put_piece($number, &inner.0);
        }
        $crate::write_fields!($self $writer; $($($rest)*)?);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! read_fields {
    ($self:ident $at:ident $field:ident;) => {};
    ($self:ident $at:ident $field:ident; $name:ident = $number:literal as $form:ty $(, $($rest:tt)*)?) => {
        if $at == $number {
            let mut form = <$form>::from(&$self.$name);
            $crate::message::Content::take(&mut form, $field)?;
            $self.$name = form.into();
        }
        $crate::read_fields!($self $at $field; $($($rest)*)?);
    };
    ($self:ident $at:ident $field:ident; $name:ident = $number:literal $(, $($rest:tt)*)?) => {
        if $at == $number {
            $crate::message::Content::take(&mut $self.$name, $field)?;
        }
        $crate::read_fields!($self $at $field; $($($rest)*)?);
    };
    ($self:ident $at:ident $field:ident; { $($inner:tt)* } = $number:literal $(, $($rest:tt)*)?) => {
        if $at == $number {
            for inner in $crate::wire::fields($field.bytes()?) {
                let (number, field) = inner?;
                $crate::read_fields!($self number field; $($inner)*);
            }
        }
        $crate::read_fields!($self $at $field; $($($rest)*)?);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! clear_fields {
    ($self:ident;) => {};
    ($self:ident; $name:ident = $number:literal as $form:ty $(, $($rest:tt)*)?) => {
        $crate::clear_fields!($self; $($($rest)*)?);
    };
    ($self:ident; $name:ident = $number:literal $(, $($rest:tt)*)?) => {
        $crate::message::Content::clear(&mut $self.$name);
        $crate::clear_fields!($self; $($($rest)*)?);
    };
    ($self:ident; { $($inner:tt)* } = $number:literal $(, $($rest:tt)*)?) => {
        $crate::clear_fields!($self; $($inner)*);
        $crate::clear_fields!($self; $($($rest)*)?);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    enum Color {
        Red,
        #[default]
        Green,
    }
    enumeration!(Color { Red = 0, Green = 3 });

    messages! {
        Inner { text: String = 1 }
        Whole {
            inner: Inner = 1, maybe: Option<Inner> = 2, all: Vec<Inner> = 3, texts: Vec<String> = 4, numbers: Vec<i64> = 5,
            wrapped: Option<i64> = 6, map: BTreeMap<String, String> = 7, color: Color = 8, ratio: f64 = 9, small: i32 = 10,
            address: Option<IpAddr> = 11, flag: bool = 12,
        }
    }

    #[derive(Debug, Default, PartialEq)]
    struct Flat {
        a: u32,
        b: Vec<String>,
        c: bool,
    }
    message!(Flat { { { a = 1 } = 2, b = 3 as Inners } = 4, c = 5 });

    #[derive(Default)]
    struct Inners(Vec<Inner>);
    impl From<&Vec<String>> for Inners {
        fn from(texts: &Vec<String>) -> Self {
            Self(texts.iter().map(|text| Inner { text: text.clone() }).collect())
        }
    }
    impl From<Inners> for Vec<String> {
        fn from(inners: Inners) -> Self {
            inners.0.into_iter().map(|inner| inner.text).collect()
        }
    }
    impl Content for Inners {
        fn put(&self, number: u64, writer: &mut Writer) {
            self.0.put(number, writer);
        }
        fn take(&mut self, field: Field<'_>) -> Result<(), Malformed> {
            self.0.take(field)
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was_written() {
        let inner = |text: &str| Inner { text: text.into() };
        let whole = Whole {
            inner: inner("a"),
            maybe: Some(Inner::default()),
            all: vec![inner("b"), Inner::default()],
            texts: vec![String::new(), "c".into()],
            numbers: vec![0, -1, 300],
            wrapped: Some(0),
            map: BTreeMap::from([("k".into(), "v".into()), ("e".into(), String::new())]),
            color: Color::Green,
            ratio: -0.5,
            small: -7,
            address: "10.0.0.1".parse().ok(),
            flag: true,
        };
        assert_eq!(Whole::decode(&whole.encode()).unwrap(), whole);
        assert_eq!(Whole::decode(&[]).unwrap().color, Color::Red, "what is absent is the first, whatever the default");
    }

    #[test]
    fn the_bytes_are_those_of_proto3() {
        let bytes = Whole { small: -1, numbers: vec![1, 300], ..Whole::empty() }.encode();
        let expect = [&[0x0a, 0, 0x2a, 3, 1, 0xac, 2, 0x50][..], &[0xff; 9], &[1]].concat();
        assert_eq!(bytes, expect);
        // Numbers that are not packed are read too.
        assert_eq!(Whole::decode(&[0x28, 1, 0x28, 2]).unwrap().numbers, [1, 2]);
    }

    #[test]
    fn fields_of_a_group_are_in_a_message_of_their_own() {
        let flat = Flat { a: 1, b: vec!["x".into()], c: true };
        assert_eq!(flat.encode(), [0x22, 9, 0x12, 2, 0x08, 1, 0x1a, 3, 0x0a, 1, b'x', 0x28, 1]);
        assert_eq!(Flat::decode(&flat.encode()).unwrap(), flat);
    }

    #[test]
    fn what_does_not_fit_its_field_is_refused() {
        for bytes in [&[0x08, 1][..], &[0x40, 1], &[0x22, 1, 0xff], &[0x4a, 1, 0], &[0x5a, 1, b'x']] {
            assert!(Whole::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
