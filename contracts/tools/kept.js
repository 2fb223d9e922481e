// What is expensive to make and the same on every machine, kept outside the checkout by the digest of what it is made from.
// The directory is the one of localcluster/layout.py `cache_directory`; deleting it costs time, never correctness.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const os = require("os");
const path = require("path");

const MOST = 32; // files of one kind: those that were used last

const directory = process.env.VEILPOD_CACHE || path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "veilpod");

/// @returns the text that was kept for these parts, or undefined.
function look(kind, parts) {
  const file = place(kind, parts);
  try {
    const text = fs.readFileSync(file, "utf8");
    fs.utimesSync(file, new Date(), new Date());
    return text;
  } catch {
    return undefined;
  }
}

/// @returns the text, kept for these parts from now on. A cache that cannot be written is done without.
function keep(kind, parts, text) {
  const file = place(kind, parts);
  const own = path.dirname(file);
  try {
    fs.mkdirSync(own, { recursive: true });
    fs.writeFileSync(`${file}.${process.pid}`, text);
    fs.renameSync(`${file}.${process.pid}`, file); // whoever reads meanwhile sees all of it or nothing
    const used = (name) => fs.statSync(path.join(own, name)).mtimeMs;
    const names = fs.readdirSync(own).sort((one, other) => used(other) - used(one));
    for (const name of names.slice(MOST)) fs.unlinkSync(path.join(own, name));
  } catch {}
  return text;
}

/// @returns everything below these files and directories, as parts: name, content, name, content…
function contents(root, ...names) {
  return names.flatMap((name) => {
    const file = path.join(root, name);
    if (!fs.statSync(file).isDirectory()) return [name, fs.readFileSync(file, "utf8")];
    return contents(root, ...fs.readdirSync(file).sort().map((child) => path.join(name, child)));
  });
}

function place(kind, parts) {
  const hash = crypto.createHash("sha256");
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part);
  return path.join(directory, kind, hash.digest("hex"));
}

module.exports = { look, keep, contents };
