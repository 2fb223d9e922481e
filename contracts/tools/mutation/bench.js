// Where mutants are tried: a copy of the tests beside artifacts that are rewritten for every mutant. The tests deploy what the
// artifacts hold (VEILPOD_SHIPPED), so they are compiled once, and a mutant costs one compilation of the contract it changes.
"use strict";

const { execFileSync, spawnSync } = require("child_process");
const fs = require("fs");
const path = require("path");

const CONTRACTS = ["ChannelManager", "NodeRegistry", "TaskScheduler"];
const SECONDS = 120; // a mutant that loops for ever is killed by then; a whole pass takes a few

/// Which tests know a source, the quick ones first. A library is everybody's.
const UNIT = {
  ChannelManager: ["ChannelManager", "BadInput"],
  NodeRegistry: ["NodeRegistry", "TaskScheduler", "BadInput"],
  TaskScheduler: ["TaskScheduler", "BadInput"],
};
const INVARIANT = { ChannelManager: ["ChannelManager"], NodeRegistry: [], TaskScheduler: ["TaskScheduler"] };

class Bench {
  constructor(root, work) {
    this.solc = require(path.join(root, "node_modules", "solc"));
    this.sources = readSources(root);
    this.tried = new Set();
    this.artifacts = path.join(work, "operator", "veilpod", "chain", "artifacts");
    this.contracts = path.join(work, "contracts");
    fs.rmSync(work, { recursive: true, force: true });
    fs.mkdirSync(this.artifacts, { recursive: true });
    fs.mkdirSync(this.contracts);
    for (const name of ["src", "test", "tools", "foundry.toml"]) {
      fs.cpSync(path.join(root, name), path.join(this.contracts, name), { recursive: true });
    }
    for (const name of ["Gas.t.sol", "formal"]) fs.rmSync(path.join(this.contracts, "test", name), { recursive: true, force: true });
    fs.symlinkSync(path.join(root, "node_modules"), path.join(this.contracts, "node_modules"));
    this.base = this.compile(this.sources, CONTRACTS, true);
    this.deploy(this.base.code);
    const forge = path.join(this.contracts, "node_modules", ".bin", "forge");
    execFileSync(forge, ["build", "--quiet"], { cwd: this.contracts, stdio: "inherit" }); // all tests, whatever runs first
    const names = this.failing(Object.fromEntries(CONTRACTS.map((name) => [name, ""])));
    if (names) throw new Error(`the tests fail before anything is changed: ${names}`);
    // The tests are compiled. What forge still asks of its compiler before each run is the version, which node is slow to say.
    const version = `printf 'solc\nVersion: ${this.solc.version()}\n'`;
    fs.writeFileSync(path.join(this.contracts, "tools", "solc"), `#!/bin/sh\n${version}\n`);
  }

  asts() {
    return Object.fromEntries(Object.entries(this.base.asts).filter(([file]) => !file.includes("/interfaces/")));
  }

  /// @returns "invalid" (does not compile), "no change" (the bytecode of the sources, or of a mutant tried before), "survived", or
  /// the name of the test that killed the mutant.
  try(mutant) {
    const original = this.sources[mutant.file];
    const text = Buffer.concat([original.subarray(0, mutant.start), Buffer.from(mutant.text), original.subarray(mutant.end)]);
    const own = CONTRACTS.filter((name) => mutant.file === `src/${name}.sol`);
    const built = this.compile({ ...this.sources, [mutant.file]: text }, own.length ? own : CONTRACTS, false);
    if (!built) return "invalid";
    const changed = Object.fromEntries(Object.entries(built.code).filter(([name, code]) => code !== this.base.code[name]));
    const print = JSON.stringify(changed);
    if (Object.keys(changed).length === 0 || this.tried.has(print)) return "no change";
    this.tried.add(print);
    this.deploy(changed);
    const killer = this.failing(changed);
    this.deploy(Object.fromEntries(Object.keys(changed).map((name) => [name, this.base.code[name]])));
    return killer ?? "survived";
  }

  /// @returns the first test that fails, or null.
  failing(changed) {
    for (const [tests, suffix] of [[UNIT, "{t,edges.t}.sol"], [INVARIANT, "invariant.t.sol"]]) {
      const names = [...new Set(Object.keys(changed).flatMap((name) => tests[name]))];
      if (names.length === 0) continue;
      const found = this.forge(`test/{${names.join(",")},}.${suffix}`);
      if (found) return found;
    }
    return null;
  }

  forge(tests) {
    const command = path.join(this.contracts, "node_modules", ".bin", "forge");
    const env = { ...process.env, VEILPOD_SHIPPED: "true", FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT: "0" };
    // Forge remembers what broke an earlier mutant; every mutant is to meet the same tests.
    for (const memory of ["fuzz", "invariant"]) fs.rmSync(path.join(this.contracts, "cache", memory), { recursive: true, force: true });
    const options = { cwd: this.contracts, env, encoding: "utf8", timeout: SECONDS * 1000, maxBuffer: 1 << 28 };
    const run = spawnSync(command, ["test", "--match-path", tests, "--fail-fast"], options);
    if (run.status === 0) return null;
    if (run.error?.code === "ETIMEDOUT") return "timeout";
    if (!run.stdout.includes("Failing tests:")) throw new Error(`forge did not run the tests:\n${run.stdout}${run.stderr}`);
    return /\b((test|invariant)_\w+|setUp)\(/.exec(run.stdout.slice(run.stdout.indexOf("Failing tests:")))?.[1] ?? "setUp";
  }

  compile(sources, names, withAst) {
    const outputSelection = Object.fromEntries(names.map((name) => [`src/${name}.sol`, { [name]: ["evm.bytecode.object"] }]));
    if (withAst) outputSelection["*"] = { "": ["ast"] };
    const output = JSON.parse(this.solc.compile(JSON.stringify({
      language: "Solidity",
      sources: Object.fromEntries(Object.entries(sources).map(([file, text]) => [file, { content: text.toString() }])),
      settings: {
        evmVersion: "cancun",
        optimizer: { enabled: true, runs: 1_000_000 },
        metadata: { bytecodeHash: "none", appendCBOR: false },
        outputSelection,
      },
    })));
    const errors = (output.errors ?? []).filter((error) => error.severity === "error");
    if (errors.length && withAst) throw new Error(errors[0].formattedMessage);
    if (errors.length) return null;
    const code = Object.fromEntries(names.map((name) => [name, output.contracts[`src/${name}.sol`][name].evm.bytecode.object]));
    return { code, asts: Object.fromEntries(Object.entries(output.sources).map(([file, { ast }]) => [file, ast])) };
  }

  deploy(code) {
    for (const [name, bytecode] of Object.entries(code)) {
      fs.writeFileSync(path.join(this.artifacts, `${name}.json`), JSON.stringify({ bytecode: `0x${bytecode}` }));
    }
  }
}

function readSources(root) {
  const found = fs.readdirSync(path.join(root, "src"), { recursive: true }).filter((file) => file.endsWith(".sol")).sort();
  return Object.fromEntries(found.map((file) => [`src/${file}`, fs.readFileSync(path.join(root, "src", file))]));
}

module.exports = { Bench };
