// What a slip of the hand looks like: every small change of a Solidity source that the operators below know, from solc's AST.
// A mutant is { file, start, end, text, operator }: bytes start..end of the file become `text`.
"use strict";

const { yulMutants } = require("./yul");

const BINARY = {
  "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="],
  "+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"], "**": ["*"],
  "<<": [">>"], ">>": ["<<"], "&": ["|"], "|": ["&"], "^": ["&"],
};
const ASSIGNMENT = { "+=": ["-=", "="], "-=": ["+=", "="], "*=": ["="], "/=": ["="], "|=": ["=", "&="], "&=": ["=", "|="] };
const UNARY = { "!": "", "~": "", "-": "", "++": "--", "--": "++" };
const DELETED = ["ExpressionStatement", "EmitStatement", "RevertStatement", "IfStatement", "Return", "ForStatement", "WhileStatement"];

const OPERATORS = {
  BinaryOperation(node, at) {
    const found = between(at, node.leftExpression, node.rightExpression, node.operator);
    const mutants = (BINARY[node.operator] ?? []).map((text) => ({ ...found, text, operator: "binary operator" }));
    if (node.operator !== "&&" && node.operator !== "||") return mutants;
    const other = { ...found, text: node.operator === "&&" ? "||" : "&&", operator: "binary operator" };
    return [other, ...[node.leftExpression, node.rightExpression].map((half) => at.replace(node, at.text(half), "half a condition"))];
  },

  Assignment(node, at) {
    const found = between(at, node.leftHandSide, node.rightHandSide, node.operator);
    return (ASSIGNMENT[node.operator] ?? []).map((text) => ({ ...found, text, operator: "assignment operator" }));
  },

  UnaryOperation(node, at) {
    if (!(node.operator in UNARY)) return [];
    const operand = at.text(node.subExpression);
    const text = node.prefix ? UNARY[node.operator] + operand : operand + UNARY[node.operator];
    return [at.replace(node, text, "unary operator")];
  },

  Literal(node, at) {
    if (node.kind === "bool") return [at.replace(node, node.value === "true" ? "false" : "true", "constant")];
    if (node.kind !== "number" || !/^(0x[0-9a-f]+|[0-9_]+)$/i.test(node.value)) return [];
    const value = BigInt(node.value.replaceAll("_", ""));
    const unit = node.subdenomination ? ` ${node.subdenomination}` : "";
    const render = (v) => (node.value.startsWith("0x") ? `0x${v.toString(16).padStart(node.value.length - 2, "0")}` : `${v}${unit}`);
    return [value + 1n, value - 1n].filter((v) => v >= 0n).map((v) => at.replace(node, render(v), "constant"));
  },

  MemberAccess(node, at) {
    const declaration = node.typeDescriptions?.typeIdentifier?.startsWith("t_enum") && at.enums.get(node.referencedDeclaration);
    return declaration ? [at.replace(node, `${at.text(node.expression)}.${declaration}`, "enum member")] : [];
  },

  IfStatement: (node, at) => [negated(at, node.condition)],
  Conditional: (node, at) => [negated(at, node.condition)],
  ForStatement: (node, at) => (node.condition ? [negated(at, node.condition)] : []),
  Return: (node, at) => (node.expression?.typeDescriptions?.typeString === "bool" ? [negated(at, node.expression)] : []),
  FunctionCall: (node, at) => (node.names?.length ? [] : swapped(at, node.arguments)),
  TupleExpression: (node, at) => swapped(at, node.components),
  FunctionDefinition: (node, at) => node.modifiers.map((modifier) => at.replace(modifier, "", "modifier")),
  InlineAssembly: (node, at) => yulMutants(node.AST, at),
};

function negated(at, condition) {
  return at.replace(condition, `!(${at.text(condition)})`, "negated condition");
}

/// An empty block, so that an `if` above it stays whole. The span of a simple statement leaves its semicolon out.
function deleted(at, node) {
  const mutant = at.replace(node, "{}", "deleted statement");
  return at.source[mutant.end] === ";".charCodeAt(0) ? { ...mutant, end: mutant.end + 1 } : mutant;
}

function between(at, left, right, operator) {
  const [from, to] = [at.span(left).end, at.span(right).start];
  const start = from + at.source.subarray(from, to).indexOf(operator);
  return { file: at.file, start, end: start + operator.length };
}

/// Neighbours of one type in another order: what the type checker cannot notice.
function swapped(at, list) {
  const mutants = [];
  for (let i = 0; i + 1 < list.length; i++) {
    const [one, two] = [list[i], list[i + 1]];
    if (!one || !two || at.text(one) === at.text(two)) continue;
    if (one.typeDescriptions?.typeIdentifier !== two.typeDescriptions?.typeIdentifier) continue;
    const gap = at.source.subarray(at.span(one).end, at.span(two).start).toString();
    const text = at.text(two) + gap + at.text(one);
    mutants.push({ file: at.file, start: at.span(one).start, end: at.span(two).end, text, operator: "swapped arguments" });
  }
  return mutants;
}

function mutantsOf(file, source, ast) {
  const at = {
    file,
    source,
    enums: nextEnumMembers(ast.all),
    span(node) {
      const [start, length] = node.src.split(":").map(Number);
      return { start, end: start + length };
    },
    text: (node) => source.subarray(at.span(node).start, at.span(node).end).toString(),
    replace: (node, text, operator) => ({ file, ...at.span(node), text, operator }),
  };
  const mutants = [];
  visit(ast.unit, (node) => {
    if (DELETED.includes(node.nodeType)) mutants.push(deleted(at, node));
    mutants.push(...(OPERATORS[node.nodeType]?.(node, at) ?? []));
  });
  return mutants;
}

/// Declaration id of an enum's member -> name of the member after it.
function nextEnumMembers(units) {
  const next = new Map();
  for (const unit of units) {
    visit(unit, (node) => {
      if (node.nodeType !== "EnumDefinition") return;
      node.members.forEach((member, i) => next.set(member.id, node.members[(i + 1) % node.members.length].name));
    });
  }
  return next;
}

function visit(node, act) {
  if (Array.isArray(node)) return node.forEach((child) => visit(child, act));
  if (node === null || typeof node !== "object") return;
  if (node.nodeType) act(node);
  for (const [key, child] of Object.entries(node)) {
    if (key !== "AST" && typeof child === "object") visit(child, act);
  }
}

module.exports = { mutantsOf };
