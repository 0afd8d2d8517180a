//! Finding the one bit that is wrong: a CRC-32 that does not match says which bit was flipped, if it was one. Pure.

/// The polynomial of CRC-32, reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A bit that is not what it was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flip {
    /// In the bytes that the checksum covers.
    Covered { byte: usize, bit: u8 },
    /// In the checksum itself.
    Checksum { bit: u8 },
}

/// What a byte of zeros makes of the checksum's register.
fn shifted(register: u32) -> u32 {
    (0..8).fold(register, |register, _| if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 })
}

/// The bit that explains the difference between the checksum of the bytes and the one that was written. Checksums are linear: the
/// difference depends on where the bit is, and not on what the bytes are.
pub(crate) fn locate(length: usize, computed: u32, written: u32) -> Option<Flip> {
    let difference = computed ^ written;
    if difference.count_ones() == 1 {
        return Some(Flip::Checksum { bit: difference.trailing_zeros() as u8 });
    }
    let mut table = [0; 256];
    for (register, entry) in (0..).zip(&mut table) {
        *entry = shifted(register);
    }
    // The differences that the bits of one byte make, from the last byte backwards.
    let mut differences: [u32; 8] = std::array::from_fn(|bit| table[1 << bit]);
    for byte in (0..length).rev() {
        if let Some(bit) = differences.iter().position(|d| *d == difference) {
            return Some(Flip::Covered { byte, bit: bit as u8 });
        }
        for register in &mut differences {
            *register = *register >> 8 ^ table[(*register & 0xff) as usize];
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_found_wherever_it_is() {
        let bytes: Vec<u8> = (0..300_u32).map(|n| (n * 7) as u8).collect();
        let checksum = |bytes: &[u8]| {
            let mut hasher = crc32fast::Hasher::new_with_initial(0x1234_5678);
            hasher.update(bytes);
            hasher.finalize()
        };
        let written = checksum(&bytes);
        for byte in [0, 1, 150, 298, 299] {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[byte] ^= 1 << bit;
                assert_eq!(locate(bytes.len(), checksum(&damaged), written), Some(Flip::Covered { byte, bit }));
            }
        }
        assert_eq!(locate(bytes.len(), written, written ^ 1 << 31), Some(Flip::Checksum { bit: 31 }));
        let mut torn = bytes.clone();
        torn[10..40].fill(0);
        assert_eq!(locate(bytes.len(), checksum(&torn), written), None);
    }
}
