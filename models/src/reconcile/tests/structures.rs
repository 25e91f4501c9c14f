use super::super::{Structure, StructureError};
use super::{grouped, structure, tree};

fn refused(leaves: &[&str], nodes: &[(&str, &[&str])]) -> StructureError {
    let nodes: Vec<(&str, Vec<&str>)> = nodes.iter().map(|(name, parts)| (*name, parts.to_vec())).collect();
    Structure::new(leaves, &nodes).unwrap_err()
}

#[test]
fn what_is_no_structure_is_refused_by_name() {
    let name = |name: &str| name.to_owned();
    assert_eq!(refused(&["a", "a"], &[]), StructureError::DeclaredTwice { name: name("a") });
    assert_eq!(refused(&["a"], &[("a", &["a"])]), StructureError::DeclaredTwice { name: name("a") });
    assert_eq!(refused(&["a"], &[("x", &["a"]), ("x", &["a"])]), StructureError::DeclaredTwice { name: name("x") });
    assert_eq!(refused(&["a"], &[("x", &[])]), StructureError::NoParts { node: name("x") });
    let unknown = StructureError::UnknownPart { node: name("x"), part: name("b") };
    assert_eq!(refused(&["a"], &[("x", &["a", "b"])]), unknown);
    let twice = StructureError::PartTwice { node: name("x"), part: name("a") };
    assert_eq!(refused(&["a"], &[("x", &["a", "a"])]), twice);
    let counted = StructureError::CountedTwice { node: name("top"), leaf: name("a") };
    assert_eq!(refused(&["a", "b"], &[("x", &["a", "b"]), ("top", &["x", "a"])]), counted);
    assert_eq!(refused(&["a"], &[("x", &["x"])]), StructureError::Cycle { nodes: vec![name("x"), name("x")] });
}

#[test]
fn a_cycle_is_named_without_what_leads_to_it() {
    let error = refused(&["a"], &[("top", &["x"]), ("x", &["y", "a"]), ("y", &["z"]), ("z", &["x"])]);
    let StructureError::Cycle { nodes } = &error else { panic!("{error}") };
    assert_eq!(nodes.first(), nodes.last());
    let mut round = nodes[1..].to_vec();
    round.sort();
    assert_eq!(round, ["x", "y", "z"]);
    assert!(error.to_string().contains(" → "), "{error}");
}

#[test]
fn nodes_may_be_declared_in_any_order() {
    let s = structure(&["a", "b", "c"], &[("top", &["x", "c"]), ("x", &["a", "b"])]);
    assert_eq!(s.names(), ["a", "b", "c", "top", "x"]);
    assert_eq!((s.position("x"), s.position("nobody")), (Some(4), None));
    assert_eq!((s.nodes(), s.leaves(), s.is_tree()), (5, 3, true));
    assert_eq!((s.parts(3), s.parts(0), s.parts(99)), (&[4, 2][..], &[][..], &[][..]));
    assert_eq!(s.leaf_counts(), [1, 1, 1, 3, 2]);
    let mut values = [1.0, 2.0, 4.0, 0.0, 0.0];
    s.sum_up(&mut values);
    assert_eq!(values, [1.0, 2.0, 4.0, 7.0, 3.0]);
    // Every leaf gets what is above it.
    let mut values = [0.0, 0.0, 0.5, 1.0, 10.0];
    s.sum_down(&mut values);
    assert_eq!(values[..3], [11.0, 11.0, 1.5]);
}

#[test]
fn sums_across_a_tree_are_a_structure_too() {
    let s = grouped(24, 3, 4);
    assert!(!s.is_tree());
    let mut values: Vec<f64> = (0..s.nodes()).map(|i| i as f64).collect();
    s.sum_up(&mut values);
    let (total, classes) = (s.position("total").unwrap(), s.position("all classes").unwrap());
    assert_eq!((values[total], values[classes]), (276.0, 276.0));
    // The sums of all and one of the two groupings are nested; the other grouping is not.
    assert!(!s.is_forest());
    assert!((3..=4).contains(&s.nodes_outside_forest()), "{}", s.nodes_outside_forest());
}

#[test]
fn nested_sums_that_are_no_tree_need_no_iterations() {
    // Both tops have the leaf sets of a tree, though they share parts.
    let s = structure(&["a", "b"], &[("x", &["a", "b"]), ("top", &["a", "b"])]);
    assert!(!s.is_tree() && s.is_forest());
}

#[test]
fn structures_at_their_limits() {
    let empty = Structure::new::<&str>(&[], &[]).unwrap();
    assert_eq!((empty.nodes(), empty.leaves()), (0, 0));
    let alone = structure(&["a"], &[]);
    assert_eq!((alone.nodes(), alone.is_tree(), alone.is_forest()), (1, true, true));
    // As deep as it is large.
    let names: Vec<String> = (0..5000).map(|i| format!("n{i}")).collect();
    let nodes: Vec<(String, Vec<String>)> = (1..5000).map(|i| (names[i].clone(), vec![names[i - 1].clone()])).collect();
    let chain = Structure::new(&names[..1], &nodes).unwrap();
    assert_eq!(chain.leaf_counts(), vec![1; 5000]);
    let large = tree(1000, 50, 5);
    assert_eq!((large.nodes(), large.leaf_counts()[1000]), (1056, 1000));
}
