//! `--atomic`: an output's whole new tree is prepared as a shadow in the staging directory, and one
//! exchange puts it in place.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use cap_std::fs::Dir;

use super::{
    settle::settle_directories,
    staged::Staged,
    steps::{Attempt, Conflict, Done, Executor, Failed, StageName, Undo},
};
use crate::{
    entry::{Kind, RelPath},
    outputs::{
        OutputError,
        decide::Side,
        host_error,
        journal::Linked,
        modes::Refused,
        ops::{Action, Identity, Op, SHADOW},
        safe::{Displaced, Why, copy_entry},
        stage_dir::Stage,
        target::Target,
    },
    sys::{
        at::{self, Look},
        walk::Walk,
    },
};

/// Builds an output's whole new tree in the stage, from hard links to unchanged files and slots for
/// new ones. The one step that remains is to exchange it for the old tree.
pub(super) fn prepare_swap(output: &mut Staged) -> Result<(), OutputError> {
    let root = output.target.prefix.clone();
    // A file or link that takes the directory's place is exchanged by its own step, without a
    // prepared tree. At that step the user's files in the old tree decide where the file goes.
    let becomes_no_directory =
        output.ops.iter().any(|op| op.path == root && matches!(op.action, Action::Put { .. }));
    if output.ops.is_empty() || becomes_no_directory {
        return Ok(());
    }
    let failed = |what: &'static str, stage: &Stage| host_error(what, stage.path.clone());
    let mut copied = HashMap::new();
    let mut walk = Walk::new(&output.target.dir);
    let old = walk.look(&root).map_err(host_error("look at", output.target.root()))?;
    match &old {
        None => {}
        Some(Look { kind: Some(Kind::Directory), .. }) => {
            let links = &mut Links { old: &mut output.prepared.linked, copied: &mut copied };
            walk.parent(&root)
                .and_then(|(dir, name)| {
                    link_tree(dir, name, &output.stage.dir, SHADOW, &RelPath::root(), links)
                })
                .map_err(failed("link what stays into", &output.stage))?;
        }
        Some(_) => {
            let why = "is a file, and --atomic exchanges directories";
            return Err(OutputError::BadTarget { path: output.target.root(), why });
        }
    }
    let dir = output.stage.dir.try_clone().map_err(failed("open", &output.stage))?;
    let shadow = Target { base: output.stage.path.clone(), dir, prefix: RelPath::root() };
    let shadow_root = RelPath::new(SHADOW).unwrap_or_default();
    let (inside, outside): (Vec<Op>, Vec<Op>) =
        std::mem::take(&mut output.ops).into_iter().partition(|op| op.path.strip_prefix(&root).is_some());
    let moved = inside.iter().cloned().map(|mut op| {
        op.action.translate(&copied);
        let tail = op.path.strip_prefix(&root).unwrap_or_default();
        // Linking has changed the ctime.
        Op { path: shadow_root.append(&tail), ctime: None, ..op }
    });
    let in_place = |path: &RelPath| root.append(&path.strip_prefix(&shadow_root).unwrap_or_default());
    let mut executor = Executor::new(&shadow, &output.stage, Attempt::First);
    executor.carry_out_all(&moved.collect::<Vec<_>>()).map_err(|Failed { what, path, source }| {
        OutputError::Host { what, path: output.target.absolute(&in_place(&path)), source }
    })?;
    let done = executor.into_done();
    settle_directories(&shadow, &output.stage, &done);
    output.prepared.inside = inside;
    let held_back = std::mem::take(&mut output.prepared.done);
    output.prepared.done = Done {
        made: Vec::new(),
        loosened: BTreeMap::new(),
        displaced: done
            .displaced
            .into_iter()
            .map(|displaced| Displaced { path: in_place(&displaced.path), ..displaced })
            .collect(),
        conflicts: done
            .conflicts
            .into_iter()
            .map(|late| Conflict { path: in_place(&late.path), ..late })
            .collect(),
        parents: done.parents.iter().map(in_place).collect(),
        ..done
    };
    output.prepared.done.absorb(held_back);
    output.ops = outside;
    drop_replaced(output).map_err(failed("remove a file in", &output.stage))?;
    let look =
        at::look(&output.stage.dir, SHADOW).map_err(failed("look at the new tree in", &output.stage))?;
    if let Some(look) = look {
        let action = Action::Swap { shadow: look.stamp.ino };
        output.ops.push(Op { path: root, action, side: Side::Output, ctime: None });
    }
    Ok(())
}

/// Removes the links to the old tree that the new tree's steps left in the stage. They are of no
/// more use, and a recovery must not take them for the user's files.
fn drop_replaced(output: &Staged) -> io::Result<()> {
    let displaced = output.prepared.done.displaced.iter().map(|displaced| displaced.name.clone());
    // A product that is put beside the output is not part of the new tree.
    let outside = output.ops.iter().filter_map(|op| match &op.action {
        Action::Put { slot, .. } => Some(slot.name()),
        _ => None,
    });
    let kept: HashSet<Vec<u8>> = displaced.chain(outside).collect();
    for name in at::names(&output.stage.dir)? {
        if &*name != SHADOW && !kept.contains(&*name) {
            at::remove_file(&output.stage.dir, &name)?;
        }
    }
    Ok(())
}

/// What [`link_tree`] found.
struct Links<'a> {
    /// The entries of the old tree, by path.
    old: &'a mut HashMap<RelPath, Linked>,
    /// Files that were copied because they could not be linked: original -> copy.
    copied: &'a mut HashMap<Identity, Identity>,
}

/// Makes `to_name` a copy of the directory `name` whose files are hard links to the originals (or
/// copies, where hard links do not work).
fn link_tree(
    from: &Dir,
    name: &[u8],
    to: &Dir,
    to_name: &[u8],
    path: &RelPath,
    links: &mut Links<'_>,
) -> io::Result<()> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let look = at::look(from, name)?.ok_or_else(missing)?;
    at::make_dir_as(to, to_name, look.mode)?;
    let (inner_from, inner_to) = (at::open_dir(from, name)?, at::open_dir(to, to_name)?);
    for child in at::names(&inner_from)? {
        let Some(child_look) = at::look(&inner_from, &child)? else { continue };
        let child_path = path.join(&child).map_err(io::Error::other)?;
        let id = Identity::from(&child_look);
        match child_look.kind {
            Some(Kind::Directory) => link_tree(&inner_from, &child, &inner_to, &child, &child_path, links)?,
            _ => copy_entry(&inner_from, &child, &inner_to, &child)?,
        }
        let new = at::look(&inner_to, &child)?.map_or(id, |look| Identity::from(&look));
        links.old.insert(child_path, Linked { old: id, new });
        if new != id {
            links.copied.insert(id, new);
        }
    }
    // The old directory's mode is not a product's: a refusal is not reported.
    Refused::default().finish(to, to_name, look.mode, look.stamp.mtime)
}

/// After an exchange: carries over what the user did to the old tree between link and exchange. A
/// file that the user wrote is put where the new tree has nothing, or what the old one had. Where
/// the new tree has a product, the user's file is saved. A file that the user deleted is deleted.
/// Each move is noted in `undo`, after the exchange: taking the run back discards the new tree, and
/// must find these files in the old one again. A second try, after a crash, finds in the old tree
/// what the first one found.
pub(super) fn rescue(
    target: &Target,
    root: &RelPath,
    stage: &mut Stage,
    linked: &HashMap<RelPath, Linked>,
    done: &mut Done,
    undo: &mut Vec<Undo>,
) -> Result<(), OutputError> {
    if linked.is_empty() {
        return Ok(());
    }
    let failed = |what: &'static str| host_error(what, stage.path.clone());
    let old = match at::open_dir(&stage.dir, SHADOW) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at the old files in")(error)),
    };
    let mut walk = Walk::new(&target.dir);
    let mut deleted: BTreeMap<&RelPath, &Linked> = linked.iter().collect();
    let mut pending = vec![(RelPath::root(), old)];
    while let Some((path, dir)) = pending.pop() {
        for name in at::names(&dir).map_err(failed("read"))? {
            let Ok(child) = path.join(&name) else { continue };
            let Ok(Some(look)) = at::look(&dir, &name) else { continue };
            deleted.remove(&child);
            let was = linked.get(&child);
            let is_as_it_was = was.is_some_and(|was| was.old == Identity::from(&look));
            let place = root.append(&child);
            let new = walk.look(&place).ok().flatten();
            if look.kind == Some(Kind::Directory) {
                let has_both = matches!(&new, Some(Look { kind: Some(Kind::Directory), .. }));
                if is_as_it_was || has_both {
                    pending.push((child, at::open_dir(&dir, &name).map_err(failed("open"))?));
                    continue;
                }
            }
            // Edited in place: the new tree has the same file, and so the edit.
            let is_there = |new: &Look| (new.stamp.dev, new.stamp.ino) == (look.stamp.dev, look.stamp.ino);
            if is_as_it_was || new.as_ref().is_some_and(is_there) {
                continue;
            }
            let number = StageName::Number(stage.number());
            // Linked, so that the old tree still has it, where a file can have two names.
            if at::hard_link(&dir, &name, &stage.dir, &number.bytes()).is_err() {
                at::rename_new(&dir, &name, &stage.dir, &number.bytes()).map_err(failed("move a file in"))?;
                undo.push(Undo::Rescued { path: child.clone(), name: number });
            }
            let is_old = |new: Look| was.is_some_and(|was| was.new == Identity::from(&new));
            let put = walk.parent(&place).and_then(|(to, entry)| match new.map(is_old) {
                None => at::rename_new(&stage.dir, &number.bytes(), to, entry)
                    .map(|()| Undo::Put { path: place.clone(), name: number }),
                Some(true) => {
                    let spare = stage.number().to_string();
                    at::exchange(&stage.dir, &number.bytes(), to, entry, spare.as_bytes())
                        .map(|()| Undo::Exchanged { path: place.clone(), name: number })
                }
                Some(false) => Err(io::ErrorKind::AlreadyExists.into()),
            });
            match put {
                Ok(step) => undo.push(step),
                Err(_) => {
                    let (name, why) = (number.bytes(), Why::ChangedMeanwhile);
                    done.displaced.push(Displaced { path: place, name, why });
                }
            }
        }
    }
    // The deepest first.
    for (path, was) in deleted.into_iter().rev() {
        let place = root.append(path);
        let Ok(Some(new)) = walk.look(&place) else { continue };
        if was.new != Identity::from(&new) {
            continue;
        }
        let number = StageName::Number(stage.number());
        let gone = walk.parent(&place).and_then(|(dir, name)| match new.kind {
            Some(Kind::Directory) => {
                at::remove_dir(dir, name).map(|()| Undo::RemovedDir { path: place.clone(), mode: new.mode })
            }
            _ => at::rename_new(dir, name, &stage.dir, &number.bytes())
                .map(|()| Undo::TakenOut { path: place.clone(), name: number }),
        });
        // A directory that is not empty stays.
        undo.extend(gone.ok());
        walk.forget();
    }
    Ok(())
}
