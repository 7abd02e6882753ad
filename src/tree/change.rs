//! What is different in a later tree of the same source.

use std::fmt;

use super::{Body, Ino, Node, Tree};

/// The difference of two trees that share their inode numbers.
#[derive(Debug, Default)]
pub struct Changes {
    /// Names that lead elsewhere, or to nothing, or that there were not: each with its folder.
    pub names: Vec<(Ino, String)>,
    /// Nodes of both trees that have other attributes.
    pub attributes: Vec<Ino>,
    /// Nodes of the earlier tree alone.
    pub gone: Vec<Ino>,
    /// Restore points, in words.
    pub points: Points,
}

/// How many restore points changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Points {
    /// That there were not.
    pub new: usize,
    /// That are not there any more.
    pub gone: usize,
    /// That have other bytes, or have become whole or broken.
    pub changed: usize,
}

impl fmt::Display for Points {
    /// `2 restore points new, 1 gone`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [(self.new, "new"), (self.gone, "gone"), (self.changed, "changed")];
        let mut subject = " restore points";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            let (comma, noun) = match subject {
                "" => (", ", ""),
                _ if count == 1 => ("", " restore point"),
                plural => ("", plural),
            };
            write!(f, "{comma}{count}{noun} {what}")?;
            subject = "";
        }
        if subject.is_empty() { Ok(()) } else { f.write_str("nothing but names and attributes") }
    }
}

impl Changes {
    /// What is different in `later`.
    pub fn between(earlier: &Tree, later: &Tree) -> Self {
        let mut changes = Self { points: points(earlier, later), ..Self::default() };
        for (ino, node) in &earlier.nodes {
            let Some(now) = later.nodes.get(ino) else {
                changes.gone.push(*ino);
                continue;
            };
            if looks_different(node, now) {
                changes.attributes.push(*ino);
                let links = later.links_in(*ino).into_iter().flatten();
                changes.attributes.extend(links.map(|link| link.ino));
            }
            if let (Body::Folder(before), Body::Folder(after)) = (&node.body, &now.body) {
                let differs = before.iter().filter(|(name, was)| after.get(name) != Some(*was));
                let new = after.iter().filter(|(name, _)| before.get(name).is_none());
                let names = differs.chain(new).map(|(name, _)| (*ino, name.to_owned()));
                changes.names.extend(names);
            }
        }
        changes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let Self { names, attributes, gone, points } = self;
        names.is_empty() && attributes.is_empty() && gone.is_empty() && *points == Points::default()
    }
}

fn looks_different(before: &Node, now: &Node) -> bool {
    let folders = |node: &Node| match &node.body {
        Body::Folder(children) => children.folders(),
        _ => 0,
    };
    (before.access, before.mtime, folders(before)) != (now.access, now.mtime, folders(now))
}

fn points(earlier: &Tree, later: &Tree) -> Points {
    let mut points = Points::default();
    for (folder, mark) in &earlier.points {
        match later.points.get(folder) {
            None => points.gone += 1,
            Some(now) => points.changed += usize::from(now != mark),
        }
    }
    points.new = later.points.keys().filter(|folder| !earlier.points.contains_key(*folder)).count();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_line_counts_what_there_is() {
        let said = |new, gone, changed| Points { new, gone, changed }.to_string();
        assert_eq!(said(2, 1, 0), "2 restore points new, 1 gone");
        assert_eq!(said(1, 0, 0), "1 restore point new");
        assert_eq!(said(0, 0, 3), "3 restore points changed");
        assert_eq!(said(0, 0, 0), "nothing but names and attributes");
    }
}
