use super::super::times::VmPlan;
use super::*;

fn second(text: &str) -> SystemTime {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

/// A disk of restore points with these names and times; `!` marks one that is no backup to go back
/// to, `+` the latest.
fn disk(path: &str, first: usize, points: &[(&str, &str)]) -> Disk {
    let mut latest = None;
    let point = |(n, (name, time)): (usize, &(&str, &str))| {
        let id = CheckpointId(first + n);
        let mut names = vec![name.trim_end_matches(['!', '+']).to_owned()];
        if name.ends_with('+') {
            latest = Some(id);
            names.push(LATEST.into());
        }
        names.push(format!("{BY_TIME}/{time}"));
        Point { id, names, time: second(time), is_backup: !name.ends_with('!') }
    };
    let points = points.iter().enumerate().map(point).collect();
    Disk { path: path.into(), latest, points }
}

fn names() -> Names {
    let sda = [
        ("FULL-10", "2024-01-25T10:00:00Z"),
        ("INC-11+", "2024-01-26T10:00:00Z"),
        ("INC-12", "2024-01-27T10:00:00Z"),
        ("sda.live!", "2024-01-28T10:00:00Z"),
    ];
    let sdb = [("FULL-10", "2024-01-25T10:00:01Z"), ("only@here+", "2024-01-26T23:59:59Z")];
    let other = [("FULL-10", "2024-03-01T00:00:00Z")];
    let disks =
        vec![disk("vm1/sda", 0, &sda), disk("vm1/sdb", 10, &sdb), disk("vm2/sda", 20, &other)];
    Names { disks, ..Names::default() }
}

fn pick(wanted: &str) -> usize {
    names().pick(wanted).unwrap_or_else(|e| panic!("{wanted}: {e}")).0
}

fn told(wanted: &str) -> String {
    names().pick(wanted).unwrap_err()
}

#[test]
fn a_full_name_is_what_ls_prints_and_what_the_view_has() {
    assert_eq!(pick("vm1/sda/INC-11"), 1);
    assert_eq!(pick("/vm1/sda/INC-11/disk.img"), 1);
    assert_eq!(pick("./vm1/sda/INC-11/"), 1);
    assert_eq!(pick("vm1/sda/latest"), 1);
    assert_eq!(pick("vm1/sda/by-time/2024-01-25T10:00:00Z"), 0);
}

#[test]
fn what_comes_first_may_be_left_out_where_only_one_is_meant() {
    assert_eq!(pick("INC-12"), 2);
    assert_eq!(pick("sdb/FULL-10"), 10);
    assert_eq!(pick("only@here"), 11, "an @ in a name is no time");
    let told = told("FULL-10");
    assert!(told.contains("vm1/sda/FULL-10, vm1/sdb/FULL-10, vm2/sda/FULL-10"), "{told}");
    let told = self::told("sda@latest");
    assert!(told.contains("vm1/sda, vm2/sda"), "{told}");
    let told = self::told("@latest");
    assert!(told.contains("vm1/sda, vm1/sdb, vm2/sda"), "{told}");
    let disks = vec![disk("vm1/sda", 0, &[("FULL-10+", "2024-01-25T10:00:00Z")])];
    let one = Names { disks, ..Names::default() };
    assert_eq!(one.pick("@latest").unwrap().0, 0);
    assert_eq!(one.pick("latest").unwrap().0, 0);
}

#[test]
fn a_vm_whose_name_is_written_wrong_is_found() {
    let told = told("vm9@latest");
    assert!(told.contains("no disk or VM `vm9`; is it vm1@latest or vm2@latest"), "{told}");
    let told = self::told("vm9");
    assert!(
        told.contains("is it vm1/sda@latest (`qcowfs restore` takes all of vm1@latest"),
        "{told}"
    );
    let vda = |path| disk(path, 0, &[("FULL-10+", "2024-01-25T10:00:00Z")]);
    let disks = vec![vda("vm1/vda"), vda("vm2/vda")];
    let near = Names { disks, ..Names::default() }.pick("vm9@latest");
    assert!(near.as_ref().is_err_and(|e| e.contains("is it vm1@latest or vm2@latest")), "{near:?}");
    let told = self::told("vn1/sdb@latest");
    assert!(told.contains("is it vm1/sdb@latest"), "{told}");
    let disks = vec![vda("vm1/vm-root.qcow2"), vda("vm1/vm-data.qcow2")];
    let near = Names { disks, ..Names::default() }.pick("vm1/vmroot@latest");
    assert!(
        near.as_ref().is_err_and(|e| e.contains("is it vm1/vm-root.qcow2@latest?")),
        "{near:?}"
    );
    let told = self::told("elsewhere@latest");
    assert!(told.contains("`qcowfs ls SOURCE` lists"), "{told}");
}

#[test]
fn a_time_is_that_of_the_newest_not_later_backup() {
    assert_eq!(pick("vm1/sda@latest"), 1);
    assert_eq!(pick("vm1/sda@2024-01-26T10:00"), 1, "to the second");
    assert_eq!(pick("vm1/sda@2024-01-26T09:59:59"), 0);
    assert_eq!(pick("vm1/sda@2024-01-26T12:00+02:00"), 1);
    assert_eq!(pick("vm1/sda@2024-01-26T11:59+02:00"), 0);
    assert_eq!(pick("vm1/sdb@2024-01-26"), 11, "a day goes to its end");
    assert_eq!(pick("vm1/sda@2025-01-01"), 2, "never the live disk");
    let told = told("vm1/sda@2024-01-24");
    assert!(told.contains("the oldest is FULL-10, of 2024-01-25T10:00:00Z"), "{told}");
    assert!(self::told("vm1/sda@monday").contains("`monday` is no time"));
    assert_eq!(pick("vm2/sda@latest"), 20, "none is whole: why not, is told of the newest");
}

#[test]
fn the_order_of_names_does_not_decide_what_is_newest() {
    let points = [("b", "2024-01-26T10:00:00Z"), ("a", "2024-01-25T10:00:00Z")];
    let names = Names { disks: vec![disk("sda", 0, &points)], ..Names::default() };
    assert_eq!(names.pick("sda@2025-01-01").unwrap().0, 0);
}

#[test]
fn a_wrong_name_suggests_the_near_ones() {
    assert!(told("vm1/sda/INC-21").contains("is it vm1/sda/INC-11"));
    assert!(told("vm1/sad@latest").contains("is it vm1/sda"));
    assert!(told("vm1/sda").contains("vm1/sda@latest"));
    assert!(told("vm1/sbd").contains("vm1/sdb@latest?"), "{}", told("vm1/sbd"));
    assert!(told("sdbb").contains("is it vm1/sdb@latest or "), "{}", told("sdbb"));
    let told_of_two = told("sda");
    assert!(told_of_two.contains("any of: vm1/sda, vm2/sda"), "{told_of_two}");
    assert!(told("vm2").contains("vm2/sda@latest"), "{}", told("vm2"));
    assert!(told("vm1@latest").contains("`vm1` is a folder with disks"), "{}", told("vm1@latest"));
    let at = told("vm1@2024-01-26");
    assert!(at.contains("such as vm1/sda@2024-01-26;") && at.contains(": vm1@2024-01-26"), "{at}");
    assert!(told("").contains("no restore point is named"), "{}", told(""));
    assert!(told("/mnt/view/vm1/x").contains("`/mnt/view/vm1/x`"), "{}", told("/mnt/view/vm1/x"));
    let mounted = told("/mnt/view/vm2/sda/FULL-10/disk.img");
    assert!(mounted.contains("is it vm2/sda/FULL-10?"), "{mounted}");
    let partition = told("vm1/sda/latest/p1.img");
    assert!(partition.contains("a whole disk is meant: vm1/sda/latest"), "{partition}");
    assert!(told("elsewhere").contains("qcowfs ls"));
}

type Found = Vec<(String, usize)>;

/// Each disk's name beneath the folder, its number, and what is told of others.
fn all_of(names: &Names, wanted: &str) -> Option<(Found, Vec<String>)> {
    let all = names.pick_all(wanted).unwrap_or_else(|e| panic!("{wanted}: {e}"))?;
    Some((all.disks.into_iter().map(|(name, id)| (name, id.0)).collect(), all.without))
}

fn disks(pairs: &[(&str, usize)]) -> Found {
    pairs.iter().map(|(path, n)| ((*path).to_owned(), *n)).collect()
}

#[test]
fn a_folder_is_all_disks_in_it() {
    let all = |wanted| all_of(&names(), wanted);
    let vm = Some((disks(&[("sda", 1), ("sdb", 11)]), vec![]));
    assert_eq!(all("vm1@2024-01-26"), vm);
    assert_eq!(all("/vm1/@2024-01-26"), vm);
    let store = disks(&[("vm1/sda", 2), ("vm1/sdb", 11), ("vm2/sda", 20)]);
    assert_eq!(all("@2024-03-01"), Some((store, vec![])));
    assert_eq!(all("vm1/sda@latest"), None, "a disk is no folder");
    assert_eq!(all("vm1/sda/INC-11"), None);
    assert_eq!(all("vm@latest"), None, "half a name is no folder");
    assert_eq!(all("only@here"), None);
    let told = names().pick_all("@2024-01-26").unwrap_err();
    assert!(told.contains("vm2/sda has no restore point"), "all or nothing: {told}");
}

#[test]
fn all_disks_are_not_picked_where_some_may_be_out_of_sight() {
    let mut all = names();
    all.links = vec!["vm1/sdc".into(), "vm10/x".into()];
    let (_, without) = all_of(&all, "vm1@latest").unwrap();
    assert!(without.len() == 1 && without[0].ends_with("never followed: vm1/sdc"), "{without:?}");
    all.unread = vec!["vm1/sdc".into()];
    let told = all.pick_all("vm1@latest").unwrap_err();
    assert!(told.contains("cannot be read: vm1/sdc") && told.contains("vm1/sda@latest"), "{told}");
    assert!(all.pick_all("@latest").is_err());
    assert!(all.pick_all("vm2@latest").is_ok(), "of another VM");
    assert!(all.pick_all("vm1/sda@latest").is_ok(), "one disk");
    let none = Names { unread: all.unread, ..Names::default() };
    assert!(none.pick_all("@latest").unwrap_err().contains("cannot be read: vm1/sdc"));
    let none = Names::default();
    assert_eq!(none.pick_all("@latest"), Ok(None));
    assert!(none.pick("@latest").unwrap_err().contains("no VM-disk backup was found"));
}

#[test]
fn a_folder_with_disks_is_a_vm_and_what_lies_deeper_is_not_of_it() {
    let one = |path, n| disk(path, n, &[("FULL+", "2024-01-25T10:00:00Z")]);
    let paths = ["a/vm1/sda", "a/vm1/sdb", "a/vm1/old/sda", "a/vm2/sda", "b/vm2/sda", "b/x"];
    let list = paths.iter().enumerate().map(|(n, path)| one(path, n)).collect();
    let names = Names { disks: list, ..Names::default() };
    let (found, without) = all_of(&names, "a/vm1@latest").unwrap();
    assert_eq!(found, disks(&[("sda", 0), ("sdb", 1)]));
    assert!(without.iter().any(|told| told.contains("a/vm1/old/sda")));
    assert_eq!(all_of(&names, "vm1@latest").unwrap().0, disks(&[("sda", 0), ("sdb", 1)]));
    let store = [("vm1/sda", 0), ("vm1/sdb", 1), ("vm1/old/sda", 2), ("vm2/sda", 3)];
    assert_eq!(all_of(&names, "a@latest"), Some((disks(&store), vec![])));
    assert!(names.pick_all("vm2@latest").unwrap_err().contains("a/vm2, b/vm2"));
    assert_eq!(all_of(&names, "x@latest"), None, "a disk");
}

#[test]
fn what_the_view_shows_of_a_moment_is_a_name() {
    let backup = |at: &str, name: &str| super::super::plan::Backup {
        time: second(at),
        name: name.into(),
        is_whole: true,
    };
    let plan = |path: &str, backups| DiskPlan { path: path.into(), backups, ..DiskPlan::default() };
    let (first, second) = ("2024-01-25T10:00:00Z", "2024-01-25T10:00:01Z");
    let plans = [
        plan("vm1/sda", vec![backup(first, "FULL-10")]),
        plan("vm1/sdb", vec![backup(second, "FULL-10")]),
    ];
    let vm = VmPlan::new("vm1".as_ref(), "@times".into(), &[0, 1], &plans).unwrap();
    let names = Names { moments: vec![Moments::new(&vm)], ..names() };
    let (whole, early) = (format!("vm1/@times/{second}"), format!("@times/{first}/"));
    let found = all_of(&names, &whole).unwrap();
    assert_eq!(found, (disks(&[("sda", 0), ("sdb", 10)]), vec![]));
    let (found, without) = all_of(&names, &early).unwrap();
    assert_eq!(found, disks(&[("sda", 0)]));
    assert!(without.iter().any(|told| told.contains("vm1/sdb")), "one that came later");
    assert_eq!(names.pick(&format!("/{whole}/sdb.img")).unwrap().0, 10);
    assert_eq!(all_of(&names, &format!("{whole}/sdb.img")), None, "one disk");
    let told = |wanted: &str| names.pick(wanted).unwrap_err();
    assert!(told(&whole).contains(&format!("such as vm1/@times/{second}/sda.img")));
    assert!(told(&format!("{whole}/sdc.img")).contains("sda.img, sdb.img"));
    assert!(told(&format!("vm1/@times/{first}/sdb.img")).contains("the oldest is FULL-10"));
    let mounted = told(&format!("/mnt/view/{whole}/sda.img"));
    assert!(mounted.contains(&format!("is it {whole}/sda.img?")), "{mounted}");
    let told = told("vm1/@times/2024-01-25T10:00:07Z");
    assert!(told.contains(&format!("is it {first} or {second}")), "{told}");
}

#[test]
fn what_could_not_be_read_is_not_passed_over_for_what_has_the_same_name() {
    let full = [("FULL+", "2024-01-25T10:00:00Z")];
    let list = || vec![disk("archive/vm1/sda", 0, &full), disk("other/vm2/sda", 1, &full)];
    for unread in ["vm1", "deep/vm1", "vm1/sda", "vm1/sda/x"] {
        let names =
            Names { disks: list(), unread: vec![unread.into(), "lost".into()], ..Names::default() };
        for wanted in ["vm1@latest", "vm1/sda@latest", "vm1/sda/FULL"] {
            // A file or a folder of a whole other name is not what is meant.
            if unread == "deep/vm1" && wanted != "vm1@latest" {
                continue;
            }
            let told = names.pick_all(wanted).and_then(|_| names.pick(wanted));
            let told = told.expect_err(&format!("{unread}: {wanted}"));
            assert!(told.contains("cannot be read"), "{unread}, {wanted}: {told}");
        }
        assert_eq!(all_of(&names, "archive/vm1@latest").unwrap().0, disks(&[("sda", 0)]));
        assert_eq!(names.pick("archive/vm1/sda@latest").unwrap().0, 0, "the whole name");
        assert_eq!(all_of(&names, "vm2@latest").unwrap().0, disks(&[("sda", 1)]), "another one");
    }
}

#[test]
fn a_disk_whose_own_folder_holds_others_is_still_of_its_vm() {
    let full = [("FULL+", "2024-01-25T10:00:00Z")];
    let paths = ["vm1/hd0/hd0", "vm1/hd0/old/hd0", "vm1/hd1"];
    let list = paths.iter().enumerate().map(|(n, path)| disk(path, n, &full)).collect();
    let names = Names { disks: list, ..Names::default() };
    let (found, without) = all_of(&names, "vm1@latest").unwrap();
    assert_eq!(found, disks(&[("hd0", 0), ("hd1", 2)]));
    assert!(without.iter().any(|told| told.contains("may be of another VM: vm1/hd0/old/hd0")));
}

/// Moments of a VM whose disks have these names, each with one full backup of the first second.
fn moments_of(vm: &str, disks: &[&str]) -> Moments {
    let backup = || super::super::plan::Backup {
        time: second("2024-01-25T10:00:00Z"),
        name: "FULL".into(),
        is_whole: true,
    };
    let path = |disk: &&str| format!("{vm}/{disk}").into();
    let plan = |disk| DiskPlan { path: path(disk), backups: vec![backup()], ..DiskPlan::default() };
    let plans: Vec<DiskPlan> = disks.iter().map(plan).collect();
    let all: Vec<usize> = (0..plans.len()).collect();
    Moments::new(&VmPlan::new(vm.as_ref(), "@times".into(), &all, &plans).unwrap())
}

#[test]
fn one_disk_of_a_moment_is_one_also_if_it_is_called_disk() {
    let full = [("FULL+", "2024-01-25T10:00:00Z")];
    let list = vec![disk("vm/disk", 0, &full), disk("vm/sdb", 1, &full)];
    let moments = vec![moments_of("vm", &["disk", "sdb"])];
    let names = Names { disks: list, moments, ..Names::default() };
    let link = "vm/@times/2024-01-25T10:00:00Z/disk.img";
    assert_eq!(names.pick(link).unwrap().0, 0);
    assert_eq!(all_of(&names, link), None);
    let told = names.pick_all("vm/@times").unwrap_err();
    assert!(told.contains("such as the newest, vm/@times/2024-01-25T10:00:00Z"), "{told}");
}

#[test]
fn folders_with_an_at_in_their_names_are_reached_and_never_taken_for_times() {
    let full = [("FULL+", "2024-01-25T10:00:00Z")];
    let paths = ["@times/hd0", "@times/hd1", "vm/sda", "vm@2024-02-01/sda"];
    let list: Vec<Disk> = paths.iter().enumerate().map(|(n, path)| disk(path, n, &full)).collect();
    let moments = vec![moments_of("vm2", &["sda", "sdb"]), moments_of("@times", &["hd0", "hd1"])];
    let names = Names { disks: list, moments, ..Names::default() };
    assert_eq!(names.pick("@times/hd0@latest").unwrap().0, 0);
    assert_eq!(all_of(&names, "@times/hd0@latest"), None);
    assert_eq!(names.pick("vm@2024-02-01/sda@latest").unwrap().0, 3);
    assert_eq!(all_of(&names, "vm@2024-02-01/sda"), None, "a path");
    let told = names.pick_all("vm@2024-02-01").unwrap_err();
    assert!(told.contains("is a folder, too"), "{told}");
}
