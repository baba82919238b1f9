/**
 * The rules that the source obeys, as functions of a file's text: which folder may import which, and what a hot file
 * may not do inside its loops. `architecture.test.ts` applies them to every file.
 */
import { stripTypeScriptTypes } from 'node:module';
import { posix } from 'node:path';
import { type AnyNode, type Node, type Program, parse } from 'acorn';

/** What a folder of src may import beside itself: folders, or `folder/part` for a part of one; `*` is any one name. */
const MAY_IMPORT: Record<string, string[]> = {
  contract: [],
  datapath: ['contract'],
  ports: ['contract', 'datapath/packet'],
  pmd: ['contract', 'datapath', 'ports'],
  guest: ['contract', 'ports/*/wire', 'ports/*/layout'],
  ofproto: ['contract'],
  openflow: ['contract', 'ofproto'],
  mgmt: ['contract', 'ofproto', 'openflow'],
  'mgmt/cli': ['contract'],
};

/** The one module through which native code is reached, and the folder of its parts. */
const NATIVE_IMPORTER = 'src/contract/os.ts';
const NATIVE_PARTS = 'src/contract/os/';

/** Layer of a file below src: its top folder, but `mgmt/cli` is one of its own. */
function layerOf(file: string): string {
  const [, top, second] = file.split('/');
  return top === 'mgmt' && second === 'cli' ? 'mgmt/cli' : top!;
}

function mayImport(layer: string, target: string): boolean {
  return (MAY_IMPORT[layer] ?? []).some((allowed) => {
    const pattern = allowed.split('/');
    const parts = target.split('/').slice(1);
    return pattern.every((name, index) => {
      const part = parts[index]?.replace(/\.ts$/, '');
      return name === '*' ? part !== undefined : part === name;
    });
  });
}

/** Module names of every import and re-export of a TypeScript file, those of types included, and of `import()`. */
export function importsOf(text: string): string[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
  const statement = /^\s*(?:import|export)\b(?:[^'"`;()]*?\bfrom)?\s*['"]([^'"]+)['"]/gm;
  const dynamic = /\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;
  return [...code.matchAll(statement), ...code.matchAll(dynamic)].map((found) => found[1]!);
}

/** Breaches of the import rules by one file; `file` is its path from the root, e.g. `src/pmd/loop.ts`. */
export function importBreaches(file: string, text: string): string[] {
  const layer = layerOf(file);
  if (!(layer in MAY_IMPORT)) return [`${file}: no rule for the folder src/${layer}`];
  const breaches: string[] = [];
  for (const name of importsOf(text)) {
    const say = (what: string) => breaches.push(`${file}: '${name}' ${what}`);
    if (name === '#native') {
      if (file !== NATIVE_IMPORTER && !file.startsWith(NATIVE_PARTS))
        say(`only ${NATIVE_IMPORTER} imports native code`);
      continue;
    }
    const relative = name.startsWith('.');
    if (!relative && !name.startsWith('#')) continue;
    if (!/\.(ts|json)$/.test(name)) say('does not end in .ts');
    const target = relative ? posix.join(posix.dirname(file), name) : `src/${name.slice(1)}`;
    const targetLayer = target.startsWith('src/') ? layerOf(target) : target;
    if (targetLayer === layer) continue;
    if (relative) say(`leaves ${layer}: a crossing is written with an alias (#folder/…)`);
    if (!mayImport(layer, target)) say(`${layer} may not import ${targetLayer}`);
  }
  return breaches;
}

/** A hot file says so in its first line. */
export const isHot = (text: string): boolean => /^\/\/ hot\b/.test(text);

/** Plain JavaScript of the same length and lines. */
function stripped(text: string): string {
  const warn = process.emitWarning;
  process.emitWarning = () => {};
  try {
    return stripTypeScriptTypes(text);
  } finally {
    process.emitWarning = warn;
  }
}

function parseTypeScript(text: string): Program {
  return parse(stripped(text), { ecmaVersion: 'latest', sourceType: 'module', locations: true });
}

/** True for a file of types only: nothing is left to run, hence nothing to test. */
export function isTypesOnly(text: string): boolean {
  return parseTypeScript(text).body.every(
    (node) =>
      node.type === 'ImportDeclaration' ||
      node.type === 'EmptyStatement' ||
      (node.type === 'ExportNamedDeclaration' && !node.declaration && node.specifiers.length === 0),
  );
}

const FORBIDDEN: Partial<Record<AnyNode['type'], string>> = {
  NewExpression: 'new',
  ArrowFunctionExpression: 'closure',
  FunctionExpression: 'closure',
  FunctionDeclaration: 'closure',
  ClassExpression: 'class',
  ClassDeclaration: 'class',
  ArrayExpression: 'array literal',
  ArrayPattern: 'array destructuring',
  ObjectExpression: 'object literal',
  SpreadElement: 'spread',
  RestElement: 'rest',
  ForOfStatement: 'for-of',
  ForInStatement: 'for-in',
  TryStatement: 'try',
  TemplateLiteral: 'template string',
  YieldExpression: 'yield',
  AwaitExpression: 'await',
};

const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);
const LOOPS = new Set(['ForStatement', 'WhileStatement', 'DoWhileStatement', 'ForOfStatement', 'ForInStatement']);

/** What makes this node unfit for a loop on the packet's way, or undefined. */
function offence(node: AnyNode): string | undefined {
  if (node.type === 'Literal') {
    if (node.bigint) return 'BigInt';
    if (node.regex) return 'regular expression';
    return typeof node.value === 'string' ? 'string' : undefined;
  }
  if (node.type === 'CallExpression') {
    const callee = node.callee;
    if (callee.type === 'Identifier' && callee.name === 'BigInt') return 'BigInt';
    if (
      callee.type === 'MemberExpression' &&
      callee.object.type === 'Identifier' &&
      /^(console|log|logger)$/.test(callee.object.name)
    ) {
      return 'log';
    }
  }
  return FORBIDDEN[node.type];
}

function childrenOf(node: Node): AnyNode[] {
  const isNode = (value: unknown): value is AnyNode =>
    typeof value === 'object' && value !== null && typeof (value as Node).type === 'string';
  return Object.values(node).flatMap((value) =>
    Array.isArray(value) ? value.filter(isNode) : isNode(value) ? [value] : [],
  );
}

/**
 * Breaches of the hot-file rules: offences inside the loops of functions. Loops at module level and in constructors run
 * once, at set-up, and so do functions with the comment `// set-up` on the line above.
 */
export function hotBreaches(file: string, text: string): string[] {
  const lines = text.split('\n');
  const breaches: string[] = [];
  const isSetUp = (node: AnyNode): boolean => {
    if (node.type === 'MethodDefinition' && node.kind === 'constructor') return true;
    const above = lines[node.loc!.start.line - 2] ?? '';
    return /^\s*\/\/ set-up\b/.test(above);
  };
  const visit = (node: AnyNode, inFunction: boolean, inLoop: boolean): void => {
    if (isSetUp(node)) return;
    const what = offence(node);
    if (what && (inLoop || (inFunction && node.type === 'ForOfStatement'))) {
      breaches.push(`${file}:${node.loc!.start.line}: ${what} in a loop`);
      if (inLoop) return;
    }
    const within = inFunction || FUNCTIONS.has(node.type);
    const loop = within && LOOPS.has(node.type);
    const once = node.type === 'ForStatement' ? node.init : undefined;
    for (const child of childrenOf(node)) visit(child, within, child === once ? inLoop : inLoop || loop);
  };
  for (const node of parseTypeScript(text).body) visit(node, false, false);
  return breaches;
}
