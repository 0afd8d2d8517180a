//! What a program needs to run: its interpreter and shared libraries, read from its ELF headers. Pure. See elf(5).

/// The names in a program's headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The dynamic loader, by path; None for a static program or a library.
    pub(crate) interpreter: Option<String>,
    /// Libraries by name.
    pub(crate) libraries: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    #[error("it is no ELF file")]
    NotElf,
    #[error("it is not of 64 bits, little-endian")]
    Class,
    #[error("its headers point outside of it")]
    Truncated,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

fn bytes<const N: usize>(file: &[u8], at: u64) -> Result<[u8; N], ElfError> {
    let at = usize::try_from(at).map_err(|_| ElfError::Truncated)?;
    let end = at.checked_add(N).ok_or(ElfError::Truncated)?;
    file.get(at..end).and_then(|b| b.try_into().ok()).ok_or(ElfError::Truncated)
}

fn u16_at(file: &[u8], at: u64) -> Result<u16, ElfError> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn u32_at(file: &[u8], at: u64) -> Result<u32, ElfError> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn u64_at(file: &[u8], at: u64) -> Result<u64, ElfError> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

/// A text that ends with a zero byte.
fn text(file: &[u8], at: u64) -> Result<String, ElfError> {
    let rest = usize::try_from(at).ok().and_then(|at| file.get(at..)).ok_or(ElfError::Truncated)?;
    let end = rest.iter().position(|b| *b == 0).ok_or(ElfError::Truncated)?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

/// A program header (Elf64_Phdr).
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn segments(file: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let (table, size, count) = (u64_at(file, 32)?, u64::from(u16_at(file, 54)?), u64::from(u16_at(file, 56)?));
    let segment = |i: u64| {
        let at = i.checked_mul(size).and_then(|o| o.checked_add(table)).ok_or(ElfError::Truncated)?;
        let field = |offset: u64| u64_at(file, at.saturating_add(offset));
        Ok(Segment { kind: u32_at(file, at)?, offset: field(8)?, address: field(16)?, size: field(32)? })
    };
    (0..count).map(segment).collect()
}

/// Reads the headers of a program or library.
pub(crate) fn needs(file: &[u8]) -> Result<Needs, ElfError> {
    if file.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    if file.get(4..6) != Some(&[2, 1]) {
        return Err(ElfError::Class);
    }
    let segments = segments(file)?;
    let of_kind = |kind| segments.iter().find(|s| s.kind == kind);
    let interpreter = of_kind(PT_INTERP).map(|s| text(file, s.offset)).transpose()?;
    let Some(dynamic) = of_kind(PT_DYNAMIC) else { return Ok(Needs { interpreter, libraries: Vec::new() }) };
    let (mut names, mut strings) = (Vec::new(), None);
    for i in 0..dynamic.size / 16 {
        let at = dynamic.offset.saturating_add(i * 16);
        let (tag, value) = (u64_at(file, at)?, u64_at(file, at.saturating_add(8))?);
        match tag {
            0 => break,
            DT_NEEDED => names.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    // The table of strings is named by its address in memory.
    let offset = |address: u64| {
        let within = |s: &&Segment| s.kind == PT_LOAD && address >= s.address && address - s.address < s.size;
        segments.iter().find(within).map(|s| address - s.address + s.offset).ok_or(ElfError::Truncated)
    };
    let libraries = match strings {
        None => Vec::new(),
        Some(address) => {
            let table = offset(address)?;
            names.into_iter().map(|name| text(file, table.saturating_add(name))).collect::<Result<_, _>>()?
        }
    };
    Ok(Needs { interpreter, libraries })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with an interpreter and two libraries, laid out by hand.
    fn sample() -> Vec<u8> {
        let mut file = vec![0u8; 0x300];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(32, &64u64.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &3u16.to_le_bytes());
        for (i, (kind, offset, address, size)) in
            [(PT_INTERP, 0x200u64, 0u64, 8u64), (PT_DYNAMIC, 0x220, 0, 64), (PT_LOAD, 0x100, 0x1000, 0x200)].into_iter().enumerate()
        {
            let at = 64 + i * 56;
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 16, &address.to_le_bytes());
            put(at + 32, &size.to_le_bytes());
        }
        put(0x200, b"/lib/ld\0");
        for (i, (tag, value)) in [(DT_NEEDED, 1u64), (DT_NEEDED, 6), (DT_STRTAB, 0x1180), (0, 0)].into_iter().enumerate() {
            put(0x220 + i * 16, &tag.to_le_bytes());
            put(0x228 + i * 16, &value.to_le_bytes());
        }
        put(0x280, b"\0a.so\0bc.so\0");
        file
    }

    #[test]
    fn a_program_names_its_interpreter_and_libraries() {
        let expect = Needs { interpreter: Some("/lib/ld".into()), libraries: vec!["a.so".into(), "bc.so".into()] };
        assert_eq!(needs(&sample()), Ok(expect));
    }

    #[test]
    fn what_is_no_whole_program_is_refused() {
        assert_eq!(needs(b"#!/bin/sh"), Err(ElfError::NotElf));
        assert_eq!(needs(b"\x7fELF\x01\x01"), Err(ElfError::Class));
        let whole = sample();
        for length in [7, 60, 100, 0x210, 0x285] {
            assert_eq!(needs(&whole[..length]), Err(ElfError::Truncated), "{length}");
        }
    }
}
