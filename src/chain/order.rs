//! Orders that hold whatever the clocks say: parents come before their children.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Orders `count` items so that each comes after its parent, and otherwise by `key`. Items whose
/// parents form a loop are left out.
pub fn parents_first<K: Ord>(
    count: usize,
    parent: impl Fn(usize) -> Option<usize>,
    key: impl Fn(usize) -> K,
) -> Vec<usize> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut ready = BinaryHeap::new();
    for item in 0..count {
        match parent(item).and_then(|parent| children.get_mut(parent)) {
            Some(siblings) => siblings.push(item),
            None => ready.push(Reverse((key(item), item))),
        }
    }
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse((_, item))) = ready.pop() {
        order.push(item);
        for child in children.get_mut(item).map(std::mem::take).unwrap_or_default() {
            ready.push(Reverse((key(child), child)));
        }
    }
    order
}

/// Compares names as people read them: runs of digits by their value, so that `.9` comes before
/// `.10`.
pub fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if digits_a > 0 && digits_b > 0 {
            let (number_a, rest_a) = a.split_at(digits_a);
            let (number_b, rest_b) = b.split_at(digits_b);
            match by_value(number_a, number_b) {
                Ordering::Equal => (a, b) = (rest_a, rest_b),
                different => return different,
            }
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            (x, y) => return x.map(|(x, _)| x).cmp(&y.map(|(y, _)| y)),
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Runs of digits of any length: without leading zeros, the longer is the larger.
fn by_value(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |text: &[u8]| text.iter().position(|&byte| byte != b'0').unwrap_or(text.len());
    let (short_a, short_b) =
        (a.get(strip(a)..).unwrap_or_default(), b.get(strip(b)..).unwrap_or_default());
    (short_a.len(), short_a).cmp(&(short_b.len(), short_b)).then(b.len().cmp(&a.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_never_comes_before_its_parent_whatever_its_time() {
        let parents = [Some(1), Some(2), None, Some(2)];
        let times = [5, 9, 30, 1];
        let order = parents_first(4, |n| parents[n], |n| times[n]);
        assert_eq!(order, [2, 3, 1, 0]);
    }

    #[test]
    fn loops_are_left_out() {
        let parents = [Some(1), Some(0), None, Some(3)];
        assert_eq!(parents_first(4, |n| parents[n], |n| n), [2]);
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        assert_eq!(natural(b"inc.9", b"inc.10"), Ordering::Less);
        assert_eq!(natural(b"a2b", b"a2a"), Ordering::Greater);
        assert_eq!(natural(b"a", b"a1"), Ordering::Less);
        assert_eq!(natural(b"x01", b"x1"), Ordering::Less);
        assert_eq!(natural(b"7", b"7"), Ordering::Equal);
    }
}
