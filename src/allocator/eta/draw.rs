//! Numbers that look random and are the same every time: an estimate must not change because it is asked for again.

/// A stream of numbers, by its own number.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// `SplitMix64`, by Steele, Lea and Flood: good enough to draw from a few hundred values.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Above 0 and below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// One of them, each as likely as the others; the default of nothing.
    pub(super) fn one_of<T: Copy + Default>(&mut self, all: &[T]) -> T {
        if all.is_empty() {
            return T::default();
        }
        all[self.below(all.len())]
    }

    /// Any number below `end`, which is above 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }
}
