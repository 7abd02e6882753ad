//! libvirt's checkpoint XML (`virsh checkpoint-dumpxml`, or its own files): which checkpoint
//! stands on which.

use std::time::{Duration, SystemTime};

/// A `<domaincheckpoint>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointXml {
    /// The checkpoint's name.
    pub name: String,
    /// The name of the one before it.
    pub parent: Option<String>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// Paths of the live disks that it speaks of, on the machine of the VM; empty if it does not
    /// say.
    pub disk_paths: Vec<String>,
}

impl CheckpointXml {
    /// Reads a checkpoint description; `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        // libvirt's own files begin with a comment; no other XML is worth a parse.
        if !text.contains("<domaincheckpoint") {
            return None;
        }
        let document = roxmltree::Document::parse(text).ok()?;
        let root = document.root_element();
        if !root.has_tag_name("domaincheckpoint") {
            return None;
        }
        let child = |node: roxmltree::Node<'_, '_>, name: &str| {
            node.children().find(|c| c.has_tag_name(name)).and_then(|c| c.text()).map(str::to_owned)
        };
        let parent = root.children().find(|c| c.has_tag_name("parent"));
        let seconds = child(root, "creationTime").and_then(|text| text.trim().parse().ok());
        let disk_paths = root
            .descendants()
            .filter(|node| node.has_tag_name("source"))
            .filter_map(|node| node.attribute("file"))
            .map(str::to_owned)
            .collect();
        Some(Self {
            name: child(root, "name")?,
            parent: parent.and_then(|node| child(node, "name")),
            // A number of seconds that no clock can have is no time.
            created: seconds
                .and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s))),
            disk_paths,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_names_its_parent() {
        let text = "<!-- made by libvirt -->\n<domaincheckpoint><name>two</name>\
             <parent><name>one</name></parent><creationTime>1795161382</creationTime>\
             <domain><name>vm</name><devices><disk><source file='/var/vm-root.qcow2'/></disk>\
             </devices></domain></domaincheckpoint>";
        let parsed = CheckpointXml::parse(text).expect("parses");
        assert_eq!((parsed.name.as_str(), parsed.parent.as_deref()), ("two", Some("one")));
        assert_eq!(parsed.disk_paths, ["/var/vm-root.qcow2"]);
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_161_382);
        assert_eq!(parsed.created, Some(created));
    }

    #[test]
    fn a_time_that_no_clock_can_have_is_none() {
        for (seconds, is_time) in [("18446744073709551615", false), ("-1", false), ("0", true)] {
            let text = format!(
                "<domaincheckpoint><name>a</name><creationTime>{seconds}</creationTime>\
                 </domaincheckpoint>"
            );
            let parsed = CheckpointXml::parse(&text).expect("parses");
            assert_eq!(parsed.created.is_some(), is_time, "{seconds}");
        }
    }

    #[test]
    fn other_xml_is_not_a_checkpoint() {
        assert_eq!(CheckpointXml::parse("<domainbackup/>"), None);
        assert_eq!(CheckpointXml::parse("<domaincheckpoint"), None);
        assert_eq!(CheckpointXml::parse("<a><domaincheckpoint/></a>"), None);
    }
}
