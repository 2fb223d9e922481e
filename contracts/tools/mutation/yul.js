// The same slips inside inline assembly. Yul has one type and no <= or >=, so those are spelled with iszero.
"use strict";

const RENAMED = {
  add: "sub", sub: "add", mul: "div", div: "mul", shl: "shr", shr: "shl", and: "or", or: "and", xor: "and",

};
const COMPARISONS = {
  lt: (a, b) => [`iszero(gt(${a}, ${b}))`, `iszero(lt(${a}, ${b}))`],
  gt: (a, b) => [`iszero(lt(${a}, ${b}))`, `iszero(gt(${a}, ${b}))`],
  eq: (a, b) => [`iszero(eq(${a}, ${b}))`],
};
/// Their arguments are all of one kind to a reader, and the order matters.
const ORDERED = new Set(["sub", "div", "mod", "shl", "shr", "byte", "mstore", "sstore", "tstore", "log1", "log2", "log3", "log4"]);

const OPERATORS = {
  YulFunctionCall(node, at) {
    const name = node.functionName.name;
    const [first, second] = node.arguments.map(at.text);
    const mutants = [];
    if (RENAMED[name]) mutants.push(at.replace(node.functionName, RENAMED[name], "binary operator"));
    if (COMPARISONS[name]) mutants.push(...COMPARISONS[name](first, second).map((text) => at.replace(node, text, "binary operator")));
    if (name === "iszero") mutants.push(at.replace(node, `iszero(iszero(${first}))`, "unary operator"));
    if (name === "not") mutants.push(at.replace(node, first, "unary operator"));
    if (ORDERED.has(name) && first !== second) {
      const rest = node.arguments.slice(2).map((argument) => `, ${at.text(argument)}`).join("");
      mutants.push(at.replace(node, `${name}(${second}, ${first}${rest})`, "swapped arguments"));
    }
    return mutants;
  },

  YulLiteral(node, at) {
    if (node.kind !== "number") return [];
    const value = BigInt(node.value);
    const render = (v) => (node.value.startsWith("0x") ? `0x${v.toString(16).padStart(node.value.length - 2, "0")}` : `${v}`);
    return [value + 1n, value - 1n].filter((v) => v >= 0n && v < 1n << 256n).map((v) => at.replace(node, render(v), "constant"));
  },

  YulIf: (node, at) => [negated(at, node.condition), at.replace(node, "", "deleted statement")],
  YulForLoop: (node, at) => [negated(at, node.condition)],
  YulSwitch: (node, at) => [at.replace(node, "", "deleted statement")],
  YulExpressionStatement: (node, at) => [at.replace(node, "", "deleted statement")],
  YulAssignment: (node, at) => [at.replace(node, "", "deleted statement")],
};

function negated(at, condition) {
  return at.replace(condition, `iszero(${at.text(condition)})`, "negated condition");
}

function yulMutants(node, at) {
  if (Array.isArray(node)) return node.flatMap((child) => yulMutants(child, at));
  if (node === null || typeof node !== "object") return [];
  const mutants = OPERATORS[node.nodeType]?.(node, at) ?? [];
  return [...mutants, ...Object.values(node).flatMap((child) => yulMutants(child, at))];
}

module.exports = { yulMutants };
